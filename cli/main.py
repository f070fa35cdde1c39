"""``tidb-backup``, or ``kubectl tidb-backup``: one module a command, imported only when it is called."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from backup_manager import core_files

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins costs a tenth of a second

COMMANDS: Final[Mapping[str, str]] = {
    "render": "render",
    "plan": "plan",
    "next": "next_runs",
    "simulate": "simulate",
    "status": "status",
    "watch": "watch",
    "why": "why",
    "history": "history",
    "import-records": "import_records",
    "verify": "verify",
    "check": "check",
    "explain-command": "explain_command",
}
"""Command to module of :mod:`cli.commands`, in the order of the help. The object in it has the command's name, with ``_`` for
``-``; that of ``next`` is called ``next_``, after no builtin."""
_SHORT: Final[Mapping[str, str]] = {
    "render": "what the hooks would answer to a file, without a cluster",
    "plan": "what retention keeps and deletes, by which rule, until when",
    "next": "the coming runs, with zones, clock changes and collisions",
    "simulate": "the next 90 days of a schedule: what is kept when, how much",
    "status": "all Backups, Restores and schedules, in one table",
    "watch": "follow runs until they end",
    "why": "why something does not move or failed, and the next step",
    "history": "every backup and restore, also of CRs and clusters that are gone",
    "import-records": "rebuild Backups from the records in a bucket",
    "verify": "compare the data in the storage with its record",
    "check": "can storage and database be reached with these credentials",
    "explain-command": "the plain br, dumpling or lightning line",
}
INTERRUPTED: Final = 130
ENV_DEBUG: Final = "TIDB_BACKUP_CLI_DEBUG"


class _Commands(click.Group):
    """Loads a command when it is called, and turns every error into two lines and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a day's work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command *cmd_name*."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        attribute = {"next": "next_"}.get(cmd_name, cmd_name.replace("-", "_"))
        found: click.Command = getattr(importlib.import_module(f"cli.commands.{module}"), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Without importing them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SHORT[name]) for name in COMMANDS])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from backup_manager.errors import ManagerError  # noqa: PLC0415  (help answers without it)
        from cli.output import Output  # noqa: PLC0415
        from crds.contract.report import Problem  # noqa: PLC0415

        try:
            return super().invoke(ctx)
        except ManagerError as error:
            Output().error(error.problem())
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except BrokenPipeError:
            # Whoever read us (head, less) has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except Exception as error:
            if os.environ.get(ENV_DEBUG):
                raise
            # A trace helps nobody at night, and may quote what it should not.
            hint = f"This is a defect; please report it with what {ENV_DEBUG}=1 adds."
            Output().error(Problem(reason="InternalError", message=f"internal error: {type(error).__name__}", hint=hint))
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="tidb-backup", message="%(prog)s %(version)s")
def commands() -> None:
    """See, prove and explain backups of TiDB: what was done, what will be done, and why.

    \b
    tidb-backup plan nightly -n shop          what retention will delete, and by which rule
    tidb-backup why nightly-2026-01-31t02-00-00
    kubectl get bk,bks -o yaml | tidb-backup plan -f -

    Commands that take -f FILE work on files alone; the others ask the cluster of the current kubeconfig.

    \b
    Exit codes: 0 ok   1 failed   2 usage   3 something could not be reached
                4 a check was not passed   5 done in part
    """


def main() -> None:
    """Run the command line under the name it was called by: kubectl finds its plugin ``kubectl-tidb_backup``."""
    core_files.forbid()
    called = os.path.basename(sys.argv[0])
    commands(prog_name="kubectl tidb-backup" if called.startswith("kubectl-") else "tidb-backup")


if __name__ == "__main__":
    main()
