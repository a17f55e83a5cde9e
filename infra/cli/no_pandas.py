"""A command does without pandas, also where it is installed.

pyarrow imports it at the first ``pa.array``, to know its objects should it be given some; no command has any. Measured over a run of ten
records: 1.76 s and 224 MB with the import, 1.25 s and 157 MB without. In a program that uses ``sinks.Warehouse`` nothing is hidden.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


class _Hidden(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """None, so that the next finder is asked, but for pandas. Raises ModuleNotFoundError, which pyarrow takes for an answer."""
        if name == "pandas":
            raise ModuleNotFoundError("kappa's commands do without pandas", name=name)


def hide_pandas() -> None:
    """For this process, unless pandas is there already."""
    sys.meta_path.insert(0, _Hidden())
