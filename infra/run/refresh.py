"""When a run makes its materialized tables: each at its own interval, in a thread beside the streams, and once more when these are done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flows.control import RunControl
from flows.errors import KappaError
from infra.run.materialize import Materializer
from infra.run.selection import Target
from sinks.catalog import Catalog

TICK_S = 0.5
INTERRUPT_S = 0.2


class Refresher:
    """The materialized tables of a run. ``publish`` makes a new one live."""

    def __init__(self, catalog: Catalog, materializer: Materializer, targets: list[Target], publish: Callable[[Target], None]) -> None:
        """``targets``: each after those that it reads."""
        self._catalog = catalog
        self._materializer = materializer
        self._targets = targets
        self._publish = publish
        self._due = {target.name: 0.0 for target in targets}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, control: RunControl) -> None:
        """Begin, beside the streams."""
        if self._targets:
            self._thread = threading.Thread(target=self._work, args=(control,), name="refresh", daemon=True)
            self._thread.start()

    def finish(self, control: RunControl) -> None:
        """End; make them all once more, unless the run is to stop."""
        if self._thread is None:
            return
        self._over.set()
        while self._thread.is_alive():
            if control.stopping:
                self._materializer.interrupt()
            self._thread.join(INTERRUPT_S)
        self._thread = None

    def _work(self, control: RunControl) -> None:
        while not self._over.wait(TICK_S) and not control.stopping:
            self._round(control, at=time.monotonic())
        self._round(control, at=float("inf"))
        self._materializer.finish()

    def _round(self, control: RunControl, at: float) -> None:
        for target in self._targets:
            table = target.definition.materialized
            assert table is not None
            if control.stopping or target.name in control.failures or self._due[target.name] > at:
                continue
            try:
                self._refresh(control, target)
            except KappaError as error:  # the catalogue is out of reach: whoever commits next says it
                control.notify(f"{target.name} stays as it is: {error.what}: {error.cause}")
            self._due[target.name] = time.monotonic() + table.refresh_interval_s

    def _refresh(self, control: RunControl, target: Target) -> None:
        state = self._catalog.read()
        live = state.tables.get(target.name)
        if live is not None and live.generation != target.generation:
            control.follow(f"{target.name}: generation {live.generation} is live now")
        elif self._materializer.refresh(target, state) and live is None:
            self._publish(target)
