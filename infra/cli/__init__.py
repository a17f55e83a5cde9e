"""The ``kappa`` command: one file per noun; a command's module is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from flows.errors import KappaError
from infra.cli.no_pandas import hide_pandas

# command -> (module:function, what it does), in the order in which --help shows them
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("infra.cli.project:init", "Make a small working warehouse folder."),
    "check": ("infra.cli.project:check", "Validate every definition, offline."),
    "test": ("infra.cli.test:test_command", "Run the warehouse's own unit tests, offline."),
    "source": ("infra.cli.source:source", "Propose a contract from real data."),
    "up": ("infra.cli.stack:up", "Start the local Kafka and PostgreSQL."),
    "down": ("infra.cli.stack:down", "Stop what up started."),
    "status": ("infra.cli.stack:status", "Show what runs, and where."),
    "logs": ("infra.cli.stack:logs", "Show the servers' logs."),
    "reset": ("infra.cli.stack:reset", "Delete the local servers' data."),
    "load": ("infra.cli.load:load", "Send files to a source's topic, exactly once."),
    "peek": ("infra.cli.peek:peek", "Show the newest or oldest events of a topic."),
    "run": ("infra.cli.run:run", "Turn events into Delta tables."),
    "plan": ("infra.cli.changes:plan", "See what the folder would change in what is live."),
    "apply": ("infra.cli.changes:apply", "Make the folder's definitions live."),
    "diff": ("infra.cli.diff:diff_command", "Compare two generations of a table, row by row."),
    "promote": ("infra.cli.generations:promote", "Switch to what was built beside the live tables."),
    "rollback": ("infra.cli.generations:rollback", "Go back to the generations before."),
    "generations": ("infra.cli.generations:generations", "List the builds of each table."),
    "drop-generation": ("infra.cli.generations:drop_generation", "Delete the data of old builds."),
    "replay": ("infra.cli.replay:replay", "Build tables anew from the log."),
    "query": ("infra.cli.query:query", "Ask the tables with SQL."),
    "cuts": ("infra.cli.cuts:cuts", "Moments at which all tables can be asked again."),
    "shell": ("infra.cli.shell:shell", "Ask one question after the other."),
    "tables": ("infra.cli.tables:tables", "List tables: rows, size, lag, freshness."),
    "show": ("infra.cli.tables:show", "One table: columns, lineage, ledger."),
    "explain-row": ("infra.cli.explain:explain_row", "From a row back to the events that made it."),
    "rejects": ("infra.cli.rejects:rejects", "Count and show the records that broke a contract."),
    "maintain": ("infra.cli.maintain:maintain", "Compact, vacuum and checkpoint tables."),
    "metadata": ("infra.cli.metadata:metadata", "Mirror of catalogue, commits and loads in PostgreSQL."),
    "audit": ("infra.cli.audit:audit", "Prove every table against its topic."),
}


class Commands(click.Group):
    """Imports a command's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a day's work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None when there is no such command: click then prints its usage error."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table above, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "-C", "folder", metavar="DIR", type=click.Path(path_type=Path), default=Path(), help="The warehouse folder (default: this one)."
)
@click.version_option(package_name="kappa-warehouse", prog_name="kappa")
@click.pass_context
def cli(ctx: click.Context, folder: Path) -> None:
    """A streaming-first data warehouse: files and messages become Kafka events, events become Delta tables, exactly once.

    \b
    A first session:
      kappa init shop && cd shop
      kappa up
      kappa load orders orders.csv
      kappa run --until-caught-up
      kappa query "FROM core.orders"
    """
    ctx.obj = folder


def main() -> None:
    """The console script. Exit status: 0 fine, 1 a finding or failure, 2 wrong usage, 130 interrupted."""
    hide_pandas()
    try:
        status = cli(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except KappaError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
