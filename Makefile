# Two commands on a bare machine with Python 3.11 or 3.12: `make demo` and `make test`. Each makes its own .venv.
# Another Python: make test PYTHON=/path/to/python3.12    Some tests only: make test ARGS="tests/unit -k jars"

.DEFAULT_GOAL := help
.PHONY: help demo change test lint bench clean
export PYTHON

help:
	@echo "make demo    the example warehouse, from files to answers"
	@echo "make change  definitions of the example change under live tables, and back (after make demo)"
	@echo "make test    all tests, on real servers (ARGS= goes to pytest)"
	@echo "make lint    ruff, mypy, import-linter, docker-compose.yml"
	@echo "make bench   the benchmark (ARGS= goes to it)"
	@echo "make clean   delete .venv and the caches of the tools"

demo:
	@bash .ci/install runtime
	@.venv/bin/python examples/flights/demo.py

change:
	@bash .ci/install runtime
	@.venv/bin/python examples/flights/change.py

test:
	@bash .ci/install dev
	@.venv/bin/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

lint:
	@bash .ci/install dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	bash .ci/compose

bench:
	@bash .ci/install dev
	@.venv/bin/python -m tests.bench $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
