"""What several commands share on the command line, and the places that these options mean."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from backup_manager.errors import UsageError
from cli.documents import Files, Source, read_files
from cli.output import Answer, Format, Output
from crds.contract import durations, sizes

if TYPE_CHECKING:
    from cli.cluster import Cluster

Command = TypeVar("Command", bound=Callable[..., Any])
TABULAR: Final = (Format.TABLE, Format.JSON, Format.YAML, Format.CSV)
PLAIN: Final = (Format.TABLE, Format.JSON, Format.YAML)


@dataclass(kw_only=True)
class Place:
    """Where a command looks: the files that were given, else the cluster of the kubeconfig."""

    files: tuple[str, ...] = ()
    namespace: str = ""
    everywhere: bool = False
    kubeconfig: str = ""
    context: str = ""
    log: str = ""

    @cached_property
    def source(self) -> Source:
        """Files, or the cluster."""
        if self.files:
            return Files(read_files(self.files), namespace=self.namespace, logs=self._log_text)
        return self.cluster

    @cached_property
    def cluster(self) -> "Cluster":
        """The cluster of the kubeconfig. The client is imported only now."""
        from cli.cluster import Cluster  # noqa: PLC0415

        return Cluster(kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace)

    @property
    def offline(self) -> bool:
        """Whether no cluster is asked."""
        return bool(self.files)

    @property
    def _log_text(self) -> str:
        if not self.log:
            return ""
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError as error:
            raise UsageError(f"{self.log} cannot be read: {error.strerror}", hint="Give the path of a log.") from None


_FILES = click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="look into these files (- is stdin)")
_NAMESPACE = click.option("-n", "--namespace", default="", metavar="NAME", help="namespace; else that of the context")
_EVERYWHERE = click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="look into all namespaces")
_KUBECONFIG = click.option("--kubeconfig", default="", metavar="FILE", help="kubeconfig; else $KUBECONFIG or ~/.kube/config")
_CONTEXT = click.option("--context", default="", metavar="NAME", help="context of the kubeconfig; else the current one")


def places(*, files: bool = True, everywhere: bool = False) -> Callable[[Command], Command]:
    """Options that say where to look; the command gets them as *place*."""
    chosen = [_NAMESPACE, _KUBECONFIG, _CONTEXT, *([_FILES] if files else []), *([_EVERYWHERE] if everywhere else [])]

    def decorate(command: Command) -> Command:
        def with_place(*args: Any, **options: Any) -> Any:
            told = {
                name: options.pop(name)
                for name in ("files", "namespace", "everywhere", "kubeconfig", "context")
                if name in options
            }
            return command(*args, place=Place(**told), **options)

        wrapped: Any = update_wrapper(with_place, command)
        for option in chosen:
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


def answers(formats: tuple[Format, ...] = TABULAR) -> Callable[[Command], Command]:
    """The option ``-o``: the command returns an Answer, which is written, and its exit code is the process's."""
    option = click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice([form.value for form in formats]),
        default=Format.TABLE.value,
        show_default=True,
        help="format of the answer",
    )

    def decorate(command: Command) -> Command:
        def with_output(*args: Any, form: str, **options: Any) -> None:
            result: Answer | None = command(*args, **options)
            if result is None:  # a group, whose subcommand answers
                return
            Output(Format(form)).write(result)
            click.get_current_context().exit(result.exit_code)

        return option(update_wrapper(with_output, command))  # type: ignore[return-value]

    return decorate


class Moment(click.ParamType[datetime]):
    """A time, or how long ago it was: ``2026-01-31T02:00:00Z``, ``2026-01-31``, ``30d``."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it; a text without a zone is UTC."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        try:
            return datetime.now(UTC) - durations.parse_span(text)
        except (ValueError, OverflowError):
            pass
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is no time; write 2026-01-31T02:00:00Z, 2026-01-31, or an age like 30d", param, ctx)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class Size(click.ParamType[int]):
    """``10GiB``, ``500Gi``, ``12GB``."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, with or without the B."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        try:
            found = sizes.whole_bytes(text.removesuffix("B").replace("kB", "k"))
        except ValueError:
            self.fail(f"{text!r} is no size; write it like 10GiB or 500MB", param, ctx)
        if found < 0:
            self.fail(f"{text!r} is negative", param, ctx)
        return found


class Span(click.ParamType[timedelta]):
    """``30m``, ``2h``, ``1d``."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        if isinstance(value, timedelta):
            return value
        try:
            return durations.parse_span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


now_option = click.option(
    "--now", type=Moment(), default=lambda: datetime.now(UTC), metavar="TIME", help="answer as if it were this time"
)
