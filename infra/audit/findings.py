"""What an audit says: what it proved of each table and partition, and what it found wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flows.ledger import Span

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as the ledger promises. ``where``: ``topic/partition``, empty for the whole table; ``positions``: examples."""

    table: str
    where: str
    what: str
    positions: tuple[str, ...] = ()
    next_step: str = ""


@dataclass(slots=True)
class Proof:
    """One table and topic partition: what was proved, in numbers.

    ``span``: the ledger's totals; ``commits``: commits walked; ``rows``: rows of the table; ``offsets``: their distinct positions;
    ``counted``: committed records of the log in the span (None: not counted); ``compared``: rows compared with the log's (``--full``);
    ``notes``: what could not be proved, and why.
    """

    table: str
    topic: str
    partition: int
    span: Span
    commits: int
    rows: int = 0
    offsets: int = 0
    counted: int | None = None
    compared: int | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.topic}/{self.partition}"

    def find(self, what: str, offsets: Iterable[int] = (), next_step: str | None = None) -> None:
        """Add a finding of this table and partition, with up to EXAMPLES positions."""
        examples = tuple(f"{self.where}/{offset}" for offset, _ in zip(offsets, range(EXAMPLES), strict=False))
        self.findings.append(Finding(self.table, self.where, what, examples, next_step or f"kappa replay {self.table}"))
