"""The pages say what is there: the files that they name, the pages that they link, the fields of a source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flows.contract import Dialect, Rule, Sheet, Source
from flows.settings import parse_bytes

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
NAMED = re.compile(r"`((?:flows|connectors|sinks|infra|tests|examples)/[\w./]*)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
ids = {"ids": lambda page: page.relative_to(ROOT).as_posix()}


@pytest.mark.parametrize("page", PAGES, **ids)
def test_files_that_are_named_exist(page: Path) -> None:
    missing = {name for name in NAMED.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()}
    assert not missing


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, **ids)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "page",
    sorted({match for path in ROOT.glob("[a-z]*/**/*.py") for match in re.findall(r"docs/[a-z]+\.md", path.read_text(encoding="utf-8"))}),
)
def test_pages_that_the_code_names_exist(page: str) -> None:
    assert (ROOT / page).exists()


def documented(heading: str) -> dict[str, str]:
    """Field -> default, of the first table after a line of docs/sources.md."""
    text = (ROOT / "docs/sources.md").read_text(encoding="utf-8").partition(heading)[2]
    rows = text.partition("|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in re.sub(r"`\|`", "", row).split("|")[1:3]] for row in rows]
    return {name.strip("`"): default.strip("`") for name, default in cells}


@pytest.mark.parametrize(("heading", "model"), [("# Sources", Source), ("`[rules.<name>]`:", Rule), ("`[csv]`, for files only", Dialect)])
def test_every_field_of_a_source_is_on_the_page(heading: str, model: type[BaseModel]) -> None:
    page = documented(heading)
    assert set(page) == set(model.model_fields) - {"name"}
    for name, default in page.items():
        expected = model.model_fields[name].default
        if isinstance(expected, int) and not isinstance(expected, bool):
            assert parse_bytes(default) == expected if expected > 0 else default == str(expected), name
        elif isinstance(expected, tuple):
            assert default == str(list(expected)).replace("'", '"'), name
        elif expected is PydanticUndefined or expected is None:
            assert default == "—", name
        elif isinstance(expected, (Dialect, Sheet)):
            assert default == "see below", name
        else:
            assert default == (str(expected).lower() if isinstance(expected, bool) else str(expected)), name
