"""Where rows land and how they are asked for: Delta tables, their owner, the catalogue, and queries.

``from sinks import Warehouse`` is the way in for Python users. It is imported when asked for, so that an owner does not load the
query engine.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinks.result import Result
    from sinks.warehouse import Warehouse

__all__ = ["Result", "Warehouse"]


def __getattr__(name: str) -> Any:
    if name == "Warehouse":
        from sinks.warehouse import Warehouse

        return Warehouse
    if name == "Result":
        from sinks.result import Result

        return Result
    raise AttributeError(name)
