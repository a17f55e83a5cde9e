"""``python -m infra.stack.relock``: resolve ``jgo.toml`` anew and write ``jgo.lock.toml`` (for those who change kappa itself)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from infra.stack.jars import LOCK


def relock() -> None:
    """Resolve with an empty cache, so that every hash comes from a fresh download."""
    from jgo.env import EnvironmentBuilder, EnvironmentSpec, LinkStrategy
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as temporary:
        context = MavenContext(repo_cache=Path(temporary) / "repository", timeout=60)
        builder = EnvironmentBuilder(context=context, cache_dir=Path(temporary) / "environment", link_strategy=LinkStrategy.HARD)
        environment = builder.from_spec(EnvironmentSpec.load(LOCK.with_name("jgo.toml")))
        LOCK.write_bytes((Path(environment.path) / LOCK.name).read_bytes())


if __name__ == "__main__":
    relock()
