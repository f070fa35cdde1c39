"""What README and docs tell people to type works: every fenced block is in the table below, and run or checked as it says.

A block is known by its file and its first command. One that is in no table fails, so does a line of the table without a block.
Blocks are run as they are written, by ``bash -eu``, except for the substitutes in :func:`substitutes`, each with its reason.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from sandbox import Cluster
from sandbox.cli import main as sandbox_command
from sandbox.components import base_environment
from sandbox.patience import PATIENCE
from sandbox.ports import free_ports
from tests.support.examples import EXAMPLES, ROOT, fill_shop, settled_text

pytestmark = pytest.mark.e2e

PAGES: Final = sorted([ROOT / "README.md", ROOT / "sandbox" / "README.md", *ROOT.glob("docs/*.md")])
_FENCE: Final = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_SHELL: Final = re.compile(
    r"^(?:make|kubectl|python|curl|docker|apt-get|export|scripts/|backup-manager|tidb-backup|eval|\.venv/)", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: str
    text: str

    @property
    def first(self) -> str:
        """Its first line without the comment: its name in the table."""
        return self.text.splitlines()[0].partition("  #")[0].strip()

    @property
    def shell(self) -> bool:
        """Whether it is something to type."""
        return bool(_SHELL.match(self.text.lstrip())) and "──" not in self.text  # a picture is none


def blocks_of(page: Path) -> list[Block]:
    found = []
    for match in _FENCE.finditer(page.read_text()):
        indent = len(match["indent"])
        text = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        block = Block(page=str(page.relative_to(ROOT)), text=text)
        if block.shell or match["language"] in {"sh", "bash", "console"}:
            found.append(block)
    return found


BLOCKS: Final = [block for page in PAGES for block in blocks_of(page)]

RUN: Final = {
    ("README.md", "kubectl apply --server-side --force-conflicts -k metacontroller/overlays/standalone"),
    ("README.md", "export BACKUP_MANAGER_PASSWORD=... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."),
    ("README.md", ".venv/bin/python -m app &"),
    ("README.md", ".venv/bin/python -m sandbox up"),
    ("docs/alerts.md", "kubectl get bks,bk,rt"),
    ("docs/alerts.md", "kubectl delete job clean-<name>-r4"),
    ("docs/images.md", "curl -s http://127.0.0.1:8080/backup/sync --data @examples/hooks/backup-sync.json"),
    (
        "docs/install.md",
        "kubectl apply --server-side --force-conflicts -k metacontroller/overlays/metacontroller-least-privilege",
    ),
    ("docs/install.md", "kubectl label namespace shop tidb.pingcap.com/backup=enabled"),
    (
        "docs/install.md",
        "kubectl get backups.pingcap.com --all-namespaces --no-headers -o custom-columns=:metadata.namespace,:metadata.name |",
    ),
    (
        "docs/install.md",
        "kubectl -n shop create rolebinding nightly-reports --role=tidb-backup-manager-reports --serviceaccount=shop:nightly",
    ),
    (
        "docs/install.md",
        "kubectl -n tidb create role tidb-br-lease --verb=get,create,update --resource=leases.coordination.k8s.io",
    ),
    ("docs/install.md", "kubectl -n tidb-backup-system logs deployment/tidb-backup-rotator"),
    ("docs/install.md", "kubectl -n tidb-backup-system annotate secret tidb-backup-webhook tidb.pingcap.com/renew=now"),
    ("docs/install.md", "kubectl delete backupschedules.pingcap.com --all --all-namespaces"),
    (
        "docs/install.md",
        'kubectl -n shop patch backups.pingcap.com nightly --type=merge -p \'{"spec":{"cleanPolicy":"Retain"}}\'',
    ),
    ("docs/failure-modes.md", "kubectl -n shop describe bk <name>"),
}
"""Typed in by a test here."""
NOT_RUN: Final = {
    ("README.md", "make demo"): "test_demo.py runs it with small tables, and this test is part of `make test`",
    ("sandbox/README.md", "python -m sandbox up --tidb source --tidb target"): "each command has a test in test_sandbox.py "
    "and test_scenarios.py; that they exist is checked",
    ("docs/images.md", "make images"): "takes minutes and needs an engine for images",
    ("docs/images.md", "docker build --target webhook --tag tidb-backup/webhook:0.1.0 ."): "needs docker",
    ("docs/images.md", "apt-get install -y buildah debootstrap podman runc"): "needs root and changes the machine",
    (
        "docs/export-contents.md",
        "jq -r '(.accounts[].create, .accounts[].roles[].sql, .accounts[].grants[].sql, "
        """(.accounts[].default_roles | select(. != ""))) + ";"' \\""",
    ): "needs an export with users, jq and mysql",
    ("docs/install.md", "kubectl apply --server-side --force-conflicts -k ."): "needs the reader's own folder, and containers",
    (
        "docs/install.md",
        "kubectl label tidbclusters,tidbmonitors,tidbinitializers,tidbngmonitorings,tidbdashboards,dmclusters --all "
        "--all-namespaces \\",
    ): "needs the CRDs of TiDB Operator 1.x",
}
"""Not typed in, and why. What they name is checked all the same."""


def test_every_block_is_in_the_table_once() -> None:
    known = [*RUN, *NOT_RUN]
    found = [(block.page, block.first) for block in BLOCKS]
    assert sorted(known) == sorted(found)
    assert not RUN & set(NOT_RUN)


def named(page: str, first: str) -> Block:
    assert (page, first) in RUN
    return next(block for block in BLOCKS if (block.page, block.first) == (page, first))


# What is run


class Desk:
    """A folder that looks like the checkout, with the examples as a reader would have filled them in."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.port, self.status_port = free_ports(2)
        for path in ROOT.iterdir():
            if path.name not in {"examples", ".sandbox", ".git"}:
                (folder / path.name).symlink_to(path)
        (folder / "examples").mkdir()
        (folder / "examples" / "hooks").symlink_to(EXAMPLES / "hooks")
        for path in EXAMPLES.glob("*.yaml"):
            (folder / "examples" / path.name).write_text(settled_text(path, cluster))

    def substitutes(self) -> Mapping[str, str]:
        """What is typed in place of what is written."""
        healthy = f"until curl -sf -o /dev/null http://127.0.0.1:{self.status_port}/healthz; do sleep 0.2; done"
        return {
            "kubectl apply --server-side": "kubectl apply --dry-run=server --server-side",  # it is installed already
            "kubectl delete ": "kubectl delete --dry-run=server --ignore-not-found ",  # it is shared with other tests
            "kubectl delete --dry-run=server --ignore-not-found -k .": "kubectl delete --dry-run=server --ignore-not-found "
            "-k metacontroller/overlays/standalone",  # instead of the reader's own folder
            "get backups.pingcap.com --all-namespaces": "get backups.pingcap.com -n shop -o yaml >/dev/null; "
            "kubectl get backups.pingcap.com -n shop",  # other tests have Backups too
            " --watch": "",  # never ends
            # The reader is slower than the webhook's start, a shell is not; and somebody has to stop it.
            ".venv/bin/python -m app &": f".venv/bin/python -m app & trap 'kill '$! EXIT; {healthy}",
            "http://127.0.0.1:8080": f"http://127.0.0.1:{self.port}",  # may be taken
            "<name>": "export-s3",
            "backups.pingcap.com nightly": "backups.pingcap.com export-s3",
            "-n metacontroller logs statefulset/metacontroller": "version",  # it is a process here
            "-n tidb-backup-system logs deployment/tidb-backup-webhook": "version",  # so is it
            "-n tidb-backup-system logs deployment/tidb-backup-rotator": "version",  # it does not run here: test_rotation.py
            "kubectl logs job/backup-export-s3": "kubectl -n shop get job/backup-export-s3",  # nothing keeps a kubelet's logs
            "kubectl describe bk": "kubectl -n shop describe bk",  # "assume -n <namespace>", says the page
            "kubectl annotate bk": "kubectl -n shop annotate bk",
            "kubectl delete job": "kubectl -n shop delete --ignore-not-found job",  # here none has failed
        }

    def typed(self, text: str) -> str:
        """The script for *text*; ``NAME=...`` gets the value that belongs there."""
        for old, new in self.substitutes().items():
            text = text.replace(old, new)
        bucket = self.cluster.bucket
        values = {
            "BACKUP_MANAGER_PASSWORD": self.cluster.tidb().password,
            "AWS_ACCESS_KEY_ID": bucket.access_key,
            "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
        }
        return re.sub(r"(\w+)=\.\.\.", lambda found: f"{found[1]}={shlex.quote(values[found[1]])}", text)

    def type(self, page: str, first: str, *, before: str = "", **more: str) -> str:
        """Run a block, after the commands *before*; returns what it printed. Fails when any of its commands does."""
        environment = {
            **base_environment(),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "TIDB_BACKUP_PORT": str(self.port),
            "TIDB_BACKUP_STATUS_PORT": str(self.status_port),
            **more,
        }
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail"],
            input=self.typed(before + named(page, first).text),
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("checkout"), cluster)


@pytest.fixture(scope="module")
def in_a_cluster(desk: Desk) -> Iterator[str]:
    """What the block of 'In a cluster' printed, in the namespace ``shop``; the Backup stays for the tests below."""
    cluster = desk.cluster
    fill_shop(cluster)
    cluster.kubectl("delete", "namespace", "shop", "--ignore-not-found", f"--timeout={PATIENCE:g}s")
    cluster.kubectl("create", "namespace", "shop")
    first = "kubectl apply --server-side --force-conflicts -k metacontroller/overlays/standalone"
    yield desk.type("README.md", first)
    cluster.kubectl("delete", "namespace", "shop", "--wait=false")


def test_in_a_cluster(in_a_cluster: str, cluster: Cluster) -> None:
    assert "backup.pingcap.com/export-s3 condition met" in in_a_cluster
    assert "namespace/shop labeled" in in_a_cluster
    assert "serverside-applied (server dry run)" in in_a_cluster
    backup = cluster.get("Backup", "export-s3", "shop") or {}
    assert backup["status"]["phase"] == "Complete"


def test_without_kubernetes(desk: Desk) -> None:
    fill_shop(desk.cluster)
    first = "export BACKUP_MANAGER_PASSWORD=... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."
    # No TiDB is reached through the sandbox's kubeconfig by accident.
    printed = desk.type("README.md", first, KUBECONFIG="/nonexistent")
    assert re.search(r"\bOK\b", printed), printed
    assert "FAILED" not in printed
    reports = [orjson.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert reports[-1]["phase"] == "Complete", reports[-1]
    assert reports[-1]["backupPath"].startswith("s3://backups/exports/export-s3")


def job_of(printed: str) -> dict[str, Any]:
    [job] = orjson.loads(printed)["children"]
    found: dict[str, Any] = job
    return found


@pytest.mark.parametrize(
    ("page", "first", "before"),
    [
        ("README.md", ".venv/bin/python -m app &", ""),
        (
            "docs/images.md",
            "curl -s http://127.0.0.1:8080/backup/sync --data @examples/hooks/backup-sync.json",
            ".venv/bin/python -m app &\n",  # in place of the image
        ),
    ],
)
def test_the_hooks_answer_to_curl(desk: Desk, page: str, first: str, before: str) -> None:
    printed = desk.type(page, first, before=before)
    answer = printed[printed.index('{"') :]
    assert job_of(answer)["metadata"]["name"] == "backup-export-s3"


def test_a_cluster_on_a_laptop(desk: Desk, tmp_path: Path) -> None:
    """In a folder of its own, so that it can be up beside another one of the same name."""
    printed = desk.type("README.md", ".venv/bin/python -m sandbox up", SANDBOX_HOME=str(tmp_path))
    assert "up after" in printed
    assert "stopped after" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("page", "first", "says"),
    [
        (page, first, says)
        for page, first, says in (
            ("docs/alerts.md", "kubectl get bks,bk,rt", "Complete"),
            ("docs/failure-modes.md", "kubectl -n shop describe bk <name>", "Complete"),
            ("docs/install.md", "kubectl label namespace shop tidb.pingcap.com/backup=enabled", "tidb-backup-manager"),
            (
                "docs/install.md",
                "kubectl apply --server-side --force-conflicts -k metacontroller/overlays/metacontroller-least-privilege",
                "server dry run",
            ),
            (
                "docs/install.md",
                "kubectl -n shop create rolebinding nightly-reports --role=tidb-backup-manager-reports "
                "--serviceaccount=shop:nightly",
                "created",
            ),
            (
                "docs/install.md",
                "kubectl -n tidb create role tidb-br-lease --verb=get,create,update --resource=leases.coordination.k8s.io",
                "rolebinding.rbac.authorization.k8s.io/shop-br-lease created",
            ),
            (
                "docs/install.md",
                "kubectl get backups.pingcap.com --all-namespaces --no-headers "
                "-o custom-columns=:metadata.namespace,:metadata.name |",
                "patched (no change)",
            ),
            ("docs/install.md", "kubectl delete backupschedules.pingcap.com --all --all-namespaces", "server dry run"),
            (
                "docs/install.md",
                'kubectl -n shop patch backups.pingcap.com nightly --type=merge -p \'{"spec":{"cleanPolicy":"Retain"}}\'',
                "patched",
            ),
            ("docs/alerts.md", "kubectl delete job clean-<name>-r4", "annotated"),
        )
    ],
)
def test_other_commands(desk: Desk, in_a_cluster: str, page: str, first: str, says: str) -> None:
    del in_a_cluster
    if " -n tidb " in first:
        desk.cluster.kubectl("create", "namespace", "tidb")
    assert says in desk.type(page, first)


# What is checked


def test_make_targets_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE))
    wanted = {
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"(?:^ *|`|PATH`? )make ([a-z][a-z0-9-]*)", page.read_text(), re.MULTILINE)
    }
    assert ("README.md", "demo") in wanted
    assert ("README.md", "test") in wanted
    assert [item for item in sorted(wanted) if item[1] not in targets] == []


def test_sandbox_commands_exist() -> None:
    wanted = {command for page in PAGES for command in re.findall(r"python -m sandbox ([a-z]+)", page.read_text())}
    assert wanted >= {"up", "env", "status", "down", "run", "logs"}
    assert wanted <= set(sandbox_command.commands)


def headings(page: Path) -> set[str]:
    """Anchors of *page*, as GitHub makes them."""
    found = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(there), f"{page.name} links to {target}"


_FOLDERS: Final = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
_PATH: Final = re.compile(rf"(?<![\w./<>-])((?:{'|'.join(_FOLDERS)})/[\w./*-]*)")
_NOT_OURS: Final = {"backup/sync", "restore/sync"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    missing = []
    for found in _PATH.findall(page.read_text()):
        path = found.rstrip(".,")
        if path not in _NOT_OURS and not any(ROOT.glob(path.rstrip("/"))):
            missing.append(path)
    assert missing == []


def test_the_folders_of_the_checkout_are_looked_for() -> None:
    """The test above sees what it should."""
    assert {"examples", "docs", "metacontroller", "sandbox", "tests", "scripts"} <= set(_FOLDERS)
    assert _PATH.findall("see `examples/x.yaml` and tidb-backup/metacontroller/x") == ["examples/x.yaml"]
