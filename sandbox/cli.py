"""``python -m sandbox up|run|status|logs|env|down``: a cluster on a laptop."""

import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from crds.contract import names
from sandbox.api import Object, name_of, uid_of
from sandbox.cluster import ALL_PARTS, Cluster, fill
from sandbox.errors import SandboxError
from sandbox.layout import DEFAULT_NAME, Layout, all_layouts

_TERMINAL = {"Complete", "Failed", "Invalid"}
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="which sandbox")


class _Commands(click.Group):
    """Turns our errors into one message, and Ctrl-C into a clean end."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SandboxError as error:
            _err.print(f"sandbox: {error}", markup=False)
            ctx.exit(1)
        except KeyboardInterrupt:
            _err.print("sandbox: interrupted; what was started is stopped")
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A Kubernetes API server with its controllers, Metacontroller, the hooks, S3 and TiDB, as local processes.

    Example: python -m sandbox up, then eval "$(python -m sandbox env)" and kubectl get bk,rt,bks,jobs,pods.
    """


@main.command()
@name_option
@click.option("--tidb", "tidbs", multiple=True, default=("source",), show_default=True, help="a TiDB to start; repeat for more")
@click.option("--tikv", "tikvs", multiple=True, help="a TiDB with a PD and a store that br can reach; repeat for more")
@click.option("--without", "left_out", multiple=True, type=click.Choice(sorted(ALL_PARTS)), help="a part to leave out")
def up(name: str, tidbs: tuple[str, ...], tikvs: tuple[str, ...], left_out: tuple[str, ...]) -> None:
    """Start everything and print where it answers; it stays up until 'down'."""
    started = time.monotonic()
    parts = ALL_PARTS - set(left_out)
    cluster = Cluster(name, tidbs=tidbs, tikvs=tikvs, parts=parts, owner=0, say=lambda line: _out.print(f"  {line}"))
    with _out.status("starting ...") if _out.is_terminal else nullcontext():
        cluster.start()
    _out.print(f"up after {time.monotonic() - started:.1f} s\n")
    _out.print(_endpoints(cluster))
    _out.print(f'\nexport KUBECONFIG={cluster.kubeconfig}   (all of it: eval "$(python -m sandbox env{_named(name)})")')


def _named(name: str) -> str:
    return "" if name == DEFAULT_NAME else f" --name {name}"


def _endpoints(cluster: Cluster) -> Table:
    table = Table("part", "where", "notes")
    api, state = cluster.api, cluster.layout.state
    table.add_row("Kubernetes", api.server, "user sandbox-admin, namespace default is ready for Backups")
    if "webhook" in cluster.component_names():
        table.add_row("hooks", cluster.webhook_url, f"token in {cluster.webhook_token_file}")
        table.add_row("metrics", f"{cluster.webhook_status_url}/metrics", "of the hooks; /healthz, /readyz")
    if "s3" in cluster.component_names():
        bucket = cluster.bucket
        table.add_row("S3", bucket.endpoint, f"bucket {bucket.name}, keys in Secret s3-secret")
    for server in state.servers:
        database = cluster.tidb(server)
        table.add_row(f"TiDB {server}", f"{database.host}:{database.port}", "user root, password in Secret tidb-secret")
    for server in state.tikvs:
        table.add_row(f"PD {server}", cluster.pd(server), "with a TiKV-like store: docs/minikv.md")
    return table


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@name_option
@click.option("--namespace", "-n", default="default", show_default=True)
@click.option("--timeout", default=600.0, show_default=True, help="seconds to wait for the end")
def run(file: Path, name: str, namespace: str, timeout: float) -> None:
    """Apply the CRs of FILE and follow each Backup and Restore to its end; starts a sandbox if none is up.

    ${S3_ENDPOINT}, ${TIDB_SOURCE_HOST} and the other names of 'env' in FILE are filled in.
    """
    cluster = Cluster(name, owner=0, say=lambda line: _out.print(f"  {line}"))
    if not cluster.layout.exists():
        cluster.start()
    documents = [item for item in yaml.safe_load_all(fill(file.read_text(), cluster.environment())) if item]
    if namespace != "default":
        cluster.make_namespace(namespace)
    failed = False
    for applied in cluster.apply(yaml.safe_dump_all(documents), namespace=namespace):
        _out.print(f"{applied['kind']} {name_of(applied)} applied")
        if applied["kind"] in {"Backup", "Restore", "CompactBackup"}:
            failed |= _follow(cluster, applied, timeout) != "Complete"
    if failed:
        raise SandboxError("not everything completed; see: kubectl describe, and python -m sandbox logs POD")


def _follow(cluster: Cluster, applied: Object, timeout: float) -> str:
    """Print every change of phase and progress until a terminal phase."""
    kind, name, namespace = applied["kind"], name_of(applied), applied["metadata"]["namespace"]
    shown = ""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        status = ((cluster.get(kind, name, namespace) or {}).get("status")) or {}
        phase, progress = status.get("phase") or status.get("state") or "", status.get("progress") or ""
        line = f"  {kind} {name}: {phase or 'waiting for the hooks'} {progress}".rstrip() + _blocked(cluster, applied)
        if line != shown:
            _out.print(line, markup=False)
            shown = line
        if phase in _TERMINAL:
            for condition in status.get("conditions") or ():
                if condition.get("type") == phase and condition.get("message"):
                    _out.print(f"    {condition.get('reason')}: {condition['message']}", markup=False)
            return str(phase)
        time.sleep(0.2)
    raise SandboxError(f"{kind} {name} did not end in {timeout:g} s; last seen: {shown.strip()}")


def _blocked(cluster: Cluster, cr: Object) -> str:
    """Why a container of the CR does not start, if so."""
    label = f"{names.OWNER_UID_LABEL}={uid_of(cr)}"
    for pod in cluster.pods(cr["metadata"]["namespace"], labels=label):
        pod_status = pod.get("status") or {}
        for container in (*(pod_status.get("initContainerStatuses") or ()), *(pod_status.get("containerStatuses") or ())):
            waiting = container["state"].get("waiting") or {}
            if waiting.get("message"):
                return f" (Pod {name_of(pod)}: {waiting['reason']}: {waiting['message']})"
    return ""


@main.command()
@name_option
def status(name: str) -> None:
    """Say which processes run."""
    layout = Layout(name)
    _ = layout.state
    table = Table("component", "pid", "state", "log")
    for record in layout.processes():
        table.add_row(record.name, str(record.pid), "running" if record.alive else "[red]gone[/red]", record.log)
    _out.print(table)
    if not all(record.alive for record in layout.processes()):
        raise SandboxError(f"something is gone; see its log, or start again: python -m sandbox down{_named(name)}")


@main.command()
@click.argument("pod")
@name_option
@click.option("--namespace", "-n", default="default", show_default=True)
@click.option("--container", "-c", default="", help="only this container")
def logs(pod: str, name: str, namespace: str, container: str) -> None:
    """Print what a POD's containers wrote, also after it is gone; or the log of a component (see 'status')."""
    cluster = Cluster(name)
    _ = cluster.layout.state
    if pod in cluster.component_names():
        sys.stdout.write(cluster.layout.log(pod).read_text(errors="replace"))
    else:
        sys.stdout.write(cluster.logs(pod, namespace, container))


@main.command()
@name_option
def env(name: str) -> None:
    """Print export lines for a shell."""
    for key, value in Cluster(name).environment().items():
        click.echo(f"export {key}={shlex.quote(value)}")


@main.command()
@name_option
@click.option("--all", "everything", is_flag=True, help="every sandbox on record")
def down(name: str, everything: bool) -> None:
    """Stop everything and delete its data; works after a crash too."""
    layouts = all_layouts() if everything else [Layout(name)]
    for layout in layouts:
        if not layout.folder.exists():
            _out.print(f"{layout.name}: nothing is up")
            continue
        started = time.monotonic()
        Cluster(layout.name).stop()
        _out.print(f"{layout.name}: stopped after {time.monotonic() - started:.1f} s, data deleted")
