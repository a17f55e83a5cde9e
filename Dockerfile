# kappa in a container: the packages of requirements.lock, each with its hash checked, run by an ordinary user.
FROM python:3.12.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/kappa
WORKDIR /source
COPY requirements.lock .
RUN /opt/kappa/bin/pip install --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY flows flows
COPY connectors connectors
COPY sinks sinks
COPY infra infra
RUN /opt/kappa/bin/pip install --no-deps --no-build-isolation --no-index .

FROM python:3.12.13-slim
RUN useradd --uid 10001 --create-home kappa && install --directory --owner kappa --group kappa /data /warehouse
COPY --from=build /opt/kappa /opt/kappa
ENV PATH=/opt/kappa/bin:$PATH PYTHONUNBUFFERED=1
USER kappa
WORKDIR /warehouse
# /warehouse: the warehouse folder. /data: where KAPPA_STORAGE should point, on a volume.
ENTRYPOINT ["kappa", "-C", "/warehouse"]
CMD ["--help"]
