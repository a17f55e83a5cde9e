"""The mirror of runs, commits, the catalogue and loads in PostgreSQL (docs/metadata.md).

It is written beside the stream, never in its way: nothing that must be right depends on it.
"""

from infra.metadata.catch_up import Added, History, Survey, TableLog, rebuild, survey
from infra.metadata.connection import MetadataUnreachable
from infra.metadata.mirror import Mirror
from infra.metadata.records import Catalogue, Commit, Load
from infra.metadata.schema import SchemaNewer, upgrade

__all__ = [
    "Added",
    "Catalogue",
    "Commit",
    "History",
    "Load",
    "MetadataUnreachable",
    "Mirror",
    "SchemaNewer",
    "Survey",
    "TableLog",
    "rebuild",
    "survey",
    "upgrade",
]
