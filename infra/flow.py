"""The flow of a source as an ordinary Bytewax dataflow::

    python -m bytewax.run "infra.flow:flow('flights', 'examples/flights')" -s 0

It claims the source's tables as ``kappa run`` does, and goes on where they stand. ``-s 0`` ends an epoch with each batch, which bounds what
is in flight; the marks of the source decide when the tables commit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from bytewax.dataflow import Dataflow

from flows.control import RunControl
from flows.errors import KappaError
from flows.project import load_project
from infra.metadata import Mirror
from infra.run.session import Session


class _Told(RunControl):
    """Nobody asks this control afterwards: it tells its errors at once."""

    def abort(self, error: KappaError) -> None:
        if self.fatal is None:
            self.notify(f"error: {error}")
        super().abort(error)


def flow(source: str, folder: str = ".") -> Dataflow:
    """The dataflow that feeds every table of ``source``, of the warehouse in ``folder``, for ever. Raises KappaError."""
    project = load_project(Path(folder))
    control = _Told(lambda line: click.echo(line, err=True))
    session = Session(project, control, Mirror(None, warehouse=project.settings.name))
    return session.dataflow(source, ThreadPoolExecutor(2, thread_name_prefix="write"))
