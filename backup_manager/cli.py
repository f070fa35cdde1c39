"""The command line ``backup-manager``: TiDB Operator's subcommands and flags, so that Jobs and habits keep working.

Flags are read as Go reads them: ``--flag=value``, ``--flag value``, and a boolean bare or with ``=true`` / ``=false``. An
explicitly empty value is refused, as upstream does.
"""

import argparse
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from backup_manager import core_files

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins costs a tenth of the start

DESCRIPTION: Final = """Backs up and restores TiDB: runs dumpling, tidb-lightning and br, deletes backup data, and reports.

In a Kubernetes Job it reads its CR from the API server and reports on the Job. Anywhere else it is a program of its own:

  backup-manager export --from-file backup.yaml --report=stdout

with the credentials in the environment: BACKUP_MANAGER_PASSWORD for the database; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
GOOGLE_APPLICATION_CREDENTIALS, or AZURE_STORAGE_KEY for the storage."""

EPILOG: Final = """exit codes:
  0 done   1 failed   2 the command line or the CR cannot work   3 something could not be reached
  4 a check was not passed   5 done in part

The last report says why, in one line: {"phase":"Failed","error":{"reason":...,"message":...,"hint":...}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag of a subcommand. A *default* of False makes it a boolean."""

    name: str
    text: str
    default: str | bool | None = None
    choices: tuple[str, ...] | None = None
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: the kinds it works on, how it is called, and the *module* of ``operations`` that does it (empty: the
    one of its name)."""

    name: str
    kinds: tuple[str, ...]
    name_flag: str
    text: str
    example: str
    module: str = ""
    flags: tuple[Flag, ...] = ()
    runs: bool = False
    """Whether it does the work of a CR, so that it must not begin once the CR is deleted."""

    @property
    def operation(self) -> str:
        """The module of ``operations``."""
        return self.module or self.name.replace("-", "_")

    @property
    def unread(self) -> str:
        """The reason told when the CR cannot be read."""
        return f"Get{self.kinds[0]}CRFailed"

    def is_run(self, flags: Mapping[str, Any]) -> bool:
        """Whether *flags* ask for the work of a CR, and not for an end of it (``log-stop``, ``--abort``)."""
        return self.runs and flags.get("subcommand") != "log-stop" and not flags.get("abort")


_BACKUP_NAME: Final = Flag(name="backupName", text="name of the Backup")
_RESTORE_NAME: Final = Flag(name="restoreName", text="name of the Restore")
_DATABASE_TLS: Final = (
    Flag(name="client-tls", text="use TLS to the database, with the files under /var/lib/tidb-client-tls", default=False),
    Flag(name="skipClientCA", text="do not verify the database's certificate", default=False),
)
_BR: Final = (
    *_DATABASE_TLS,
    Flag(name="cluster-tls", text="use TLS to PD and TiKV, with the files under /var/lib/cluster-client-tls", default=False),
    Flag(name="pd-addr", text="where PD is, host:port; else TiDB Operator v1's service of the cluster"),
    Flag(name="tikvVersion", text="version of TiKV; decides whether br can go on from a checkpoint", default="4.0"),
)

_COMMANDS: Final = (
    Command(
        name="backup",
        module="br_backup",
        kinds=("Backup",),
        name_flag="backupName",
        runs=True,
        text="back up with br: a snapshot, or a command of a log backup",
        example="backup-manager backup --namespace=tidb --backupName=nightly --tikvVersion=v8.5.0 --mode=snapshot",
        flags=(
            _BACKUP_NAME,
            *_BR,
            Flag(name="mode", text="what to do", default="snapshot", choices=("snapshot", "log", "volume-snapshot")),
            Flag(
                name="subcommand",
                text="with --mode=log",
                default="log-start",
                choices=("log-start", "log-stop", "log-pause", "log-resume", "log-truncate", "log-status", "log-metadata"),
            ),
            Flag(name="commit-ts", text="start TSO of a log backup; 0: now", default="0"),
            Flag(name="truncate-until", text="TSO up to which log-truncate deletes", default="0"),
            Flag(name="initialize", text="a step of volume-snapshot, which is not offered", default=False),
        ),
    ),
    Command(
        name="log-watch",
        module="watch_log",
        kinds=("Backup",),
        name_flag="backupName",
        text="watch a running log backup: checkpoint, lag, pause reason and last error, each minute",
        example="backup-manager log-watch --namespace=tidb --backupName=pitr",
        flags=(_BACKUP_NAME, *_BR),
    ),
    Command(
        name="compact",
        kinds=("CompactBackup",),
        name_flag="resourceName",
        runs=True,
        text="compact a log backup with tikv-ctl, whole or one shard of it",
        example="backup-manager compact --namespace=tidb --resourceName=weekly",
        flags=(Flag(name="resourceName", text="name of the CompactBackup"),),
    ),
    Command(
        name="restore",
        module="br_restore",
        kinds=("Restore",),
        name_flag="restoreName",
        runs=True,
        text="restore with br: a snapshot, or a point in time",
        example="backup-manager restore --namespace=tidb --restoreName=yesterday --tikvVersion=v8.5.0 --mode=pitr",
        flags=(
            _RESTORE_NAME,
            *_BR,
            Flag(name="mode", text="what to do", default="snapshot", choices=("snapshot", "pitr", "volume-snapshot")),
            Flag(name="pitrRestoredTs", text="with --mode=pitr: the TSO or time to restore to; 0: the newest", default="0"),
            Flag(name="abort", text="remove what a failed restore left behind (br abort)", default=False),
            Flag(name="replicationPhase", text="0 none, 1 snapshot, 2 log", default="0", choices=("0", "1", "2")),
            Flag(name="prepare", text="a step of volume-snapshot, which is not offered", default=False),
            Flag(name="target-az", text="of volume-snapshot, which is not offered", may_be_empty=True),
            Flag(name="use-fsr", text="of volume-snapshot, which is not offered", default=False, may_be_empty=True),
        ),
    ),
    Command(
        name="export",
        kinds=("Backup",),
        name_flag="backupName",
        runs=True,
        text="export with dumpling, straight to the storage",
        example="backup-manager export --from-file examples/backup-export-s3.yaml --report=stdout",
        flags=(
            _BACKUP_NAME,
            Flag(name="bucket", text="accepted for TiDB Operator's Jobs; the CR decides"),
            Flag(name="storageType", text="accepted for TiDB Operator's Jobs; the CR decides"),
            *_DATABASE_TLS,
        ),
    ),
    Command(
        name="import",
        module="import_",
        kinds=("Restore",),
        name_flag="restoreName",
        runs=True,
        text="import with tidb-lightning: an export, or a .tgz archive made by TiDB Operator",
        example="backup-manager import --from-file restore.yaml --backupPath=s3://bucket/prefix/nightly-1a2b3c4d",
        flags=(
            _RESTORE_NAME,
            Flag(name="backupPath", text="where the data lies, like s3://bucket/path; else the CR's path, or its prefix"),
            *_DATABASE_TLS,
        ),
    ),
    Command(
        name="clean",
        kinds=("Backup",),
        name_flag="backupName",
        text="delete the data of a Backup: the recorded path and nothing beside it",
        example="backup-manager clean --namespace=tidb --backupName=nightly",
        flags=(_BACKUP_NAME,),
    ),
    Command(
        name="gc-life-time",
        kinds=("Backup", "Restore"),
        name_flag="resourceName",
        text="restore the GC life time that a killed run of a Backup or Restore left raised",
        example="backup-manager gc-life-time --namespace=tidb --kind=Backup --resourceName=nightly",
        flags=(
            Flag(name="kind", text="kind of the CR", default="Backup", choices=("Backup", "Restore")),
            Flag(name="resourceName", text="name of the Backup or Restore, of which no run is left"),
            *_DATABASE_TLS,
        ),
    ),
    Command(
        name="verify",
        kinds=("Backup",),
        name_flag="backupName",
        text="compare the data of a Backup with its record",
        example="backup-manager verify --namespace=tidb --backupName=nightly --report=stdout",
        flags=(_BACKUP_NAME,),
    ),
    Command(
        name="check",
        kinds=("Backup", "Restore", "BackupSchedule"),
        name_flag="backupName",
        text="preflight: can the storage and the database be reached with these credentials",
        example="backup-manager check --from-file backup.yaml",
        flags=(_BACKUP_NAME,),
    ),
)
COMMANDS: Final = {command.name: command for command in _COMMANDS}
_EVERYWHERE: Final = (
    Flag(name="kubeconfig", text="kubeconfig file; else the cluster that the Pod runs in"),
    Flag(name="report", text="job | stdout | FILE; else the Job's annotation in a Job, stdout elsewhere"),
    Flag(name="from-file", text="read the CR from this YAML file (- is stdin) and use no Kubernetes at all"),
    Flag(name="namespace", text="namespace of the CR"),
)


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line that says where help is; exit 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nSee `{self.prog} --help`.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    gc.disable()  # a start makes no garbage: looking for some costs a seventh of it; the run switches it on again
    parser = _parser()
    flags: dict[str, Any] = vars(parser.parse_args(argv))
    chosen = flags.pop("command")
    if chosen is None:
        parser.print_help()
        return 0
    command = COMMANDS[chosen]
    if not flags.get("from-file"):
        for name in ("namespace", command.name_flag):
            if not flags.get(name):
                parser.error(f"{chosen} needs --{name} (or --from-file CR.yaml)")

    from backup_manager.runner import Run  # noqa: PLC0415  (help and usage errors answer without it)
    from backup_manager.signals import StopSignal  # noqa: PLC0415

    core_files.forbid()
    env = dict(os.environ)
    run = Run(verb=command, flags=flags, env=env, stop=StopSignal.of(env))
    run.stop.install()
    return run.execute()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="backup-manager",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Before or after the subcommand, as in Go: the value after it wins, its default never does.
    _add(parser, _EVERYWHERE, default=None)
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for name, command in COMMANDS.items():
        sub = parsers.add_parser(
            name,
            help=command.text,
            description=f"{command.text[0].upper()}{command.text[1:]}.",
            epilog=f"example:\n  {command.example}\n\n{EPILOG}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add(sub, command.flags)
        _add(sub, _EVERYWHERE, default=argparse.SUPPRESS)
    return parser


def _add(parser: argparse.ArgumentParser, flags: Sequence[Flag], *, default: Any = ...) -> None:
    for flag in flags:
        options = ["-k", "--kubeconfig"] if flag.name == "kubeconfig" else [f"--{flag.name}"]
        value = flag.default if default is ... else default
        if flag.default is False:
            parser.add_argument(
                *options,
                dest=flag.name,
                help=flag.text,
                nargs="?",
                const=True,
                default=value,
                type=_boolean,
                metavar="true|false",
            )
            continue
        reader = str if flag.may_be_empty else _text
        shown = "|".join(flag.choices) if flag.choices else _metavar(flag)
        parser.add_argument(
            *options, dest=flag.name, help=flag.text, default=value, type=reader, choices=flag.choices, metavar=shown
        )


def _metavar(flag: Flag) -> str:
    return {"kubeconfig": "FILE", "from-file": "CR.yaml", "report": "TARGET"}.get(flag.name, "VALUE")


def _text(value: str) -> str:
    if not value.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def _boolean(value: str) -> bool:
    known = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if value.lower() not in known:
        raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
    return known[value.lower()]


if __name__ == "__main__":
    sys.exit(main())
