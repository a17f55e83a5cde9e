"""Stretches of positions that are made alike: each position once, in order, by what makes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.eras import Era
from infra.run.eras import Eras, Makers, State

PARTITIONS = 3
OFFSETS = st.integers(0, 6)
VECTORS = st.fixed_dictionaries(dict.fromkeys(range(PARTITIONS), OFFSETS))
TABLES = ("staging.s", "core.a", "core.b")


class Named(Eras):
    """Of a source whose tables had these eras; what makes a stretch is its state."""

    def __init__(self, before: Mapping[str, tuple[Era, ...]]) -> None:
        definitions = {name: SimpleNamespace(source="s", schema=pa.schema([]), before=before.get(name, ())) for name in TABLES}
        project = SimpleNamespace(sources={"s": SimpleNamespace(name="s")})
        nodes = {name: SimpleNamespace(name=name, source="s") for name in TABLES[1:]}
        super().__init__(SimpleNamespace(definitions=definitions, project=project, plan=SimpleNamespace(nodes=nodes)), "s", "t")  # type: ignore[arg-type]

    def _makers(self, state: State) -> Makers:
        return state  # type: ignore[return-value]


@st.composite
def eras(draw: st.DrawFn) -> dict[str, tuple[Era, ...]]:
    """Of each table some, each up to greater positions than the one before; those of two tables in any relation."""
    found = {}
    for name in TABLES:
        vectors = draw(st.lists(VECTORS, max_size=3))
        grown = [{p: max(each[p] for each in vectors[: n + 1]) for p in range(PARTITIONS)} for n in range(len(vectors))]
        topic = st.sampled_from(["t", "t", "t", "another"])
        found[name] = tuple(Era(draw(topic), vector, f"{n}-1", {}) for n, vector in enumerate(grown))
    return found


@given(eras(), VECTORS, st.none() | VECTORS)
def test_every_position_is_made_once_by_its_era(
    before: dict[str, tuple[Era, ...]], starts: dict[int, int], until: dict[int, int] | None
) -> None:
    work = Named(before)
    stands, ends, made = dict(starts), until or dict.fromkeys(range(PARTITIONS), 9), {}
    for _ in range(100):
        stretch = work.stretches(stands, until)
        makers, upto = stretch if stretch is not None else (None, ends)
        for p, end in upto.items():
            assert stretch is None or end >= stands[p]
            for offset in range(stands[p], end):
                made[p, offset] = makers
            stands[p] = max(stands[p], end)
        if stretch is None:
            break
    else:
        pytest.fail("it does not end")
    wanted = {(p, offset) for p in starts for offset in range(starts[p], ends[p])}
    assert made.keys() == wanted
    now = work.at(0, 1000)
    for (p, offset), makers in made.items():
        chosen = tuple(
            next((n for n, era in enumerate(mine) if offset < era.until[p]), len(mine))
            for name in TABLES
            if (mine := [era for era in before[name] if era.topic_id == "t"])
        )
        assert (makers or now) == chosen == work.at(p, offset)  # type: ignore[comparison-overlap]
