"""What every kappa error is: the thing, the cause, and the next command."""

from __future__ import annotations


class KappaError(Exception):
    """An error that a user can act on.

    ``what`` names the thing that failed, ``cause`` why, and ``next_step`` the command or edit that mends it. One subclass a
    cause, carrying the ids needed to find it. The command line prints the three and exits with ``exit_status``.
    """

    exit_status = 1
    stops_run = False  # True: the whole run stops and commits nothing more (fenced, log identity, fatal Kafka errors)

    def __init__(self, what: str, *, cause: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.next_step:
            lines.append(f"  next:  {self.next_step}")
        return "\n".join(lines)


class UsageError(KappaError):
    """The command was called wrongly: exit status 2."""

    exit_status = 2
