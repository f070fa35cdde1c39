"""CRs of every shape, the br command lines that the manager makes of them, and the real br run until it proves them right.

A br that has understood its command line connects to PD. Here PD is a listening socket: the first connection is the proof, and
br is killed. ``br log truncate`` and ``br log metadata`` ask the storage alone; they are pointed at the same socket, or read an
empty folder and say so.
"""

import itertools
import os
import random
import select
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from app.builders import env as job_env
from backup_manager.storage import tool_urls
from backup_manager.tidb.cluster import Cluster
from backup_manager.tools import br
from backup_manager.tools.tidb_log import fields
from crds.contract import paths
from crds.v1alpha1.backup import Backup
from crds.v1alpha1.restore import Restore
from sandbox.patience import PATIENCE, Deadline
from tests.support.servers import tool

SECRETS: Final = {
    "access_key": "AKIA-of-the-matrix",
    "secret_key": "secret-key-of-the-matrix",
    "credentials": '{"type":"service_account","private_key":"private-key-of-the-matrix"}',
    "AZURE_STORAGE_ACCOUNT": "account",
    "AZURE_STORAGE_KEY": "YWNjb3VudC1rZXktb2YtdGhlLW1hdHJpeA==",
}
TOKEN: Final = "sv=2024&sig=a%2Bb+token/of=the-matrix"
_AAD: Final = {"AZURE_CLIENT_ID": "id", "AZURE_CLIENT_SECRET": "client-secret-of-the-matrix", "AZURE_TENANT_ID": "tenant"}
_PER_CELL: Final = 2
"""CRs of each verb and storage; what else is in them is drawn at random, the same at every run."""

Spec = dict[str, Any]

STORAGES: Final[Mapping[str, Spec]] = {
    "s3 aws, keys": {"s3": {"provider": "aws", "region": "eu-west-1", "bucket": "b", "prefix": "p", "secretName": "s"}},
    "s3 aws, role": {"s3": {"provider": "aws", "region": "eu-west-1", "bucket": "b/deep", "prefix": "/p//q/"}},
    "s3 minio": {"s3": {"provider": "minio", "endpoint": "@ENDPOINT@", "bucket": "b", "prefix": "p ü+%41", "secretName": "s"}},
    "s3 ceph without scheme": {
        "s3": {"provider": "ceph", "endpoint": "@HOST@", "bucket": "b", "prefix": "p", "secretName": "s"}
    },
    "s3 all fields": {
        "s3": {
            **{"provider": "aws", "region": "us-east-1", "endpoint": "@ENDPOINT@", "bucket": "b", "prefix": "p"},
            **{"storageClass": "STANDARD_IA", "acl": "private", "sse": "AES256", "secretName": "s", "forcePathStyle": False},
        }
    },
    "s3 kms": {
        "s3": {
            **{
                "provider": "aws",
                "region": "us-east-1",
                "bucket": "b",
                "prefix": "p",
                "sse": "aws:kms",
                "forcePathStyle": True,
            },
            **{"options": ["--s3-sse-kms-key-id=arn:aws:kms:us-east-1:1:key/k"], "secretName": "s"},
        }
    },
    "gcs, key": {"gcs": {"projectId": "j", "bucket": "b", "prefix": "p", "secretName": "s"}},
    "gcs, workload identity": {
        "gcs": {"projectId": "j", "bucket": "b", "prefix": "p/q", "storageClass": "NEARLINE", "objectAcl": "private"}
    },
    "azblob, key": {"azblob": {"container": "c", "prefix": "p", "secretName": "s", "accessTier": "Hot"}},
    "azblob, application": {"azblob": {"container": "c", "prefix": "p", "storageAccount": "account", "secretName": "aad"}},
    "azblob, token": {"azblob": {"container": "c", "prefix": "p", "storageAccount": "account", "sasToken": TOKEN}},
    "local": {
        "local": {"prefix": "p", "volume": {"name": "v"}, "volumeMount": {"name": "v", "mountPath": "@FOLDER@"}},
    },
}
KINDS: Final = ("full", "db", "table")
LOGS: Final = tuple(br.LogCommand)
VERBS: Final = (
    *(f"backup {kind}" for kind in KINDS),
    *(f"restore {kind}" for kind in KINDS),
    "restore point",
    *(f"log {command.verb}" for command in LOGS),
)
STORAGE_ONLY: Final = frozenset({"log truncate", "log metadata"})
_BR_FIELDS: Final[Mapping[str, Sequence[Any]]] = {
    "clusterNamespace": ["", "elsewhere"],
    "logLevel": ["", "debug", "warn"],
    "statusAddr": ["", "127.0.0.1:0"],
    "concurrency": [None, 8],
    "rateLimit": [None, 128],
    "timeAgo": ["", "5m"],
    "checksum": [None, True, False],
    "checkRequirements": [None, True, False],
    "sendCredToTikv": [None, True, False],
    "onLine": [None, True, False],
    "options": [[], ["--log-level=error"], ["--ratelimit", "7"], ["--check-requirements=false", "--checksum=false"]],
}
_FILTERS: Final[tuple[list[str], ...]] = ([], ["shop.*"], ["shop.*", "!shop.`a b`"], ["*.*", "!mysql.*", "/^db[0-9]+$/.*"])
_TIMES: Final = ("", "400036290571534337", "2018-05-11 01:42:23", "2018-05-11T01:42:23+08:00")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One CR and what is to be done with it."""

    name: str
    verb: str
    kind: str
    spec: Spec
    tls: bool = False
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What br did: *arguments* as it understood them; *contacted* PD (or, for storage-only verbs, the storage)."""

    argv: Sequence[str]
    contacted: bool
    code: int | None
    arguments: Mapping[str, str]
    output: str


def cases() -> Iterator[Case]:
    """The matrix: every verb on every storage, with the other fields drawn from all their values."""
    for number, (verb, storage, _) in enumerate(itertools.product(VERBS, STORAGES, range(_PER_CELL))):
        if verb in STORAGE_ONLY and not {"@ENDPOINT@", "@HOST@", "@FOLDER@"} & set(_words(STORAGES[storage])):
            continue  # it would go out into the world
        yield _case(random.Random(number), number, verb, storage)


def _case(draw: random.Random, number: int, verb: str, storage: str) -> Case:
    group, _, kind = verb.partition(" ")
    config = {name: draw.choice(values) for name, values in _BR_FIELDS.items()}
    config = {name: value for name, value in config.items() if value not in (None, "", [])}
    spec: Spec = {"br": {"cluster": "basic", **config}, **STORAGES[storage]}
    flags: dict[str, str] = {}
    if group != "log" and kind in {"db", "table"}:
        spec["backupType"] = kind
        spec["br"] |= {"db": "shop"} | ({"table": "a b"} if kind == "table" else {})
    elif rules := draw.choice(_FILTERS):
        spec["tableFilter"] = rules
    if group == "backup" and (at := draw.choice(_TIMES)):
        spec["commitTs"] = at
        spec["br"].pop("timeAgo", None)
    if group == "log":
        spec["backupMode"] = "log"
        flags = {"start_ts": draw.choice(_TIMES), "until": "400036290571534337"}
    if verb == "restore point":
        spec["restoreMode"] = "pitr"
        flags = {"restored_ts": draw.choice(_TIMES) or "0"}
        if draw.random() < 0.5:
            spec["logRestoreStartTs"] = "400036290571534337"
        else:
            spec["pitrFullBackupStorageProvider"] = STORAGES[storage]
    return Case(name=f"{number} {verb}, {storage}", verb=verb, kind=group, spec=spec, tls=draw.random() < 0.2, flags=flags)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    else:
        yield str(value)


def prove(case: Case, folder: Path, *, patience: float = PATIENCE) -> Proof:
    """Make the command line of *case* and run br with it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as pd:
        address = f"127.0.0.1:{pd.getsockname()[1]}"
        spec = _validated(case, _filled(case.spec, address, folder))
        env, told = _storage(spec, folder)
        argv = _argv(case, spec, address, told, folder)
        return _run(argv, pd, folder, {**env, **told.env}, patience)


def _filled(value: Any, address: str, folder: Path) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, address, folder) for name, item in value.items()}
    places = {"@ENDPOINT@": f"http://{address}", "@HOST@": address, "@FOLDER@": str(folder)}
    return places.get(value, value) if isinstance(value, str) else value


def _validated(case: Case, spec: Spec) -> Spec:
    """*spec* as it comes out of the model of its kind: only what the CRD allows goes to br."""
    model = Restore if case.kind == "restore" else Backup
    kind = {"apiVersion": "pingcap.com/v1alpha1", "kind": model.__name__, "metadata": {"name": "cr", "namespace": "ns"}}
    cr = model.model_validate({**kind, "spec": spec})
    dumped: Spec = cr.model_dump(mode="json", by_alias=True, exclude_none=True)["spec"]
    return dumped


def _storage(spec: Spec, folder: Path) -> tuple[dict[str, str], tool_urls.ToolStorage]:
    """The environment that the Job of *spec* has, its Secrets filled in, and what br is told."""
    env: dict[str, str] = {}
    for entry in job_env.storage(spec):
        reference = (entry.get("valueFrom") or {}).get("secretKeyRef")
        if reference is None:
            env[entry["name"]] = str(entry["value"])
        elif reference["name"] == "s" and reference["key"] in SECRETS:
            env[entry["name"]] = SECRETS[reference["key"]]
        elif reference["name"] == "aad" and entry["name"] in _AAD:
            env[entry["name"]] = _AAD[entry["name"]]
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return env, tool_urls.for_br(spec, paths.location_of(spec), env=env, scratch=scratch)


def _argv(case: Case, spec: Spec, address: str, told: tool_urls.ToolStorage, folder: Path) -> list[str]:
    cluster = Cluster.of(spec["br"], "ns", tls=case.tls, pd_addr=address)
    if case.kind == "backup":
        return br.backup(spec, cluster, told.br_arguments)
    if case.verb == "restore point":
        full = ""
        if base := spec.get("pitrFullBackupStorageProvider"):
            full = _storage(base, folder)[1].url
        return br.restore_point(spec, cluster, told.br_arguments, restored_ts=case.flags["restored_ts"], full_backup=full)
    if case.kind == "restore":
        return br.restore(spec, cluster, told.br_arguments)
    command = br.LogCommand(f"log-{case.verb.partition(' ')[2]}")
    return br.log(command, "cr", spec, cluster, told.br_arguments, **case.flags)


def _run(argv: Sequence[str], pd: socket.socket, folder: Path, env: Mapping[str, str], patience: float) -> Proof:
    log = folder / "br.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [tool("br"), *argv],
            env={**inherited, **env, **br.LOG_TO_TERM, "AWS_EC2_METADATA_DISABLED": "true"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        contacted = _contacted(process, pd, patience)
        code = process.poll()
    finally:
        process.kill()
        process.wait()
    text = log.read_text(errors="replace")
    found = next((fields(line) for line in text.splitlines() if "[arguments]" in line), {})
    return Proof(argv=argv, contacted=contacted, code=code, arguments=found, output=text)


def _contacted(process: "subprocess.Popen[bytes]", pd: socket.socket, patience: float) -> bool:
    """Whether somebody connects to *pd* before br ends; the connection is left unanswered."""
    deadline = Deadline(limit=patience, stalled=patience)
    while not deadline.over:
        if select.select([pd], [], [], 0.05)[0]:
            return True
        if process.poll() is not None:
            return bool(select.select([pd], [], [], 0)[0])
    return False
