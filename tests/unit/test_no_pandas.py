"""The commands do without pandas, and nothing that they call notices."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from infra.cli.no_pandas import hide_pandas
hide_pandas()
import datetime, numpy, duckdb, pyarrow as pa, pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
for values in ([1, None], numpy.arange(3), [datetime.datetime(2026, 1, 1)], numpy.array(["2026-01-01"], "datetime64[us]")):
    assert len(pa.array(values)) == len(values)
assert pa.table({"a": [1]}).to_pylist() == [{"a": 1}]
assert duckdb.sql("SELECT 1 AS a").to_arrow_table().to_pylist() == [{"a": 1}]
assert "pandas" not in sys.modules
"""


def test_pandas_is_not_imported() -> None:
    import pandas  # noqa: F401 - it is installed, so that there is something to hide

    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
