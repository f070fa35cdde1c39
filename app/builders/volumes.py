"""Volumes of a Job's Pod and where its main container mounts them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.domain.job.observed import JobIntent, Purpose
from crds.contract import names

TOKEN_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  (a folder)
_TMP: Final = "/tmp"  # noqa: S108 - an emptyDir: the root file system is read-only
_TOKEN_SECONDS: Final = 3607
_OWN_STORAGE: Final = frozenset({Purpose.EXPORT, Purpose.BACKUP, Purpose.LOG, Purpose.RESTORE, Purpose.IMPORT, Purpose.COMPACT})


@dataclass(slots=True)
class Volumes:
    """Volumes and mounts as they come together, in order."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, volume: Mapping[str, Any], mount: Mapping[str, Any]) -> None:
        """Add one volume and its mount."""
        self.volumes.append(dict(volume))
        self.mounts.append(dict(mount))

    def add_secret(self, name: str, secret: str, directory: str) -> None:
        """Add a Secret, read-only."""
        self.add({"name": name, "secret": {"secretName": secret}}, {"name": name, "mountPath": directory, "readOnly": True})

    def add_empty(self, name: str, directory: str) -> None:
        """Add an empty folder that lives as long as the Pod."""
        self.add({"name": name, "emptyDir": {}}, {"name": name, "mountPath": directory})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Which certificates a Job uses: Secret names, empty for none."""

    cluster: str = ""
    client: str = ""
    skip_ca: bool = False


def tls_of(spec: Mapping[str, Any], intent: JobIntent) -> Tls:
    """The rules of TiDB Operator 1.6: for br the cluster decides, for export and import the access alone."""
    access = spec.get("from") or spec.get("to") or {}
    given = str(access.get("tlsClientSecretName") or "")
    if intent.purpose in {Purpose.EXPORT, Purpose.IMPORT}:
        return Tls(client=given)
    cluster = intent.cluster
    if intent.purpose is Purpose.GC_LIFE_TIME and (cluster is None or not spec.get("br")):
        return Tls(client=given)
    if cluster is None or intent.purpose is Purpose.COMPACT:
        return Tls()
    client = bool(access) and cluster.tidb_tls and intent.purpose is not Purpose.WATCH
    return Tls(
        cluster=f"{cluster.name}-cluster-client-secret" if cluster.tls and intent.purpose is not Purpose.GC_LIFE_TIME else "",
        client=(given or f"{cluster.name}-tidb-client-secret") if client else "",
        skip_ca=client and cluster.skip_client_ca,
    )


def volumes_of(spec: Mapping[str, Any], intent: JobIntent, tools: Mapping[str, str]) -> Volumes:
    """Everything the Pod mounts. *tools* maps the emptyDir of each tool to its directories."""
    found, tls = Volumes(), tls_of(spec, intent)
    if tls.cluster:
        found.add_secret("cluster-client-tls", tls.cluster, names.CLUSTER_TLS_DIR)
    if tls.client:
        found.add_secret("tidb-client-tls", tls.client, names.CLIENT_TLS_DIR)
    for directory, name in tools.items():
        if name not in {volume["name"] for volume in found.volumes}:
            found.volumes.append({"name": name, "emptyDir": {}})
        found.mounts.append({"name": name, "mountPath": directory})
    # Upstream's order: a clean mounts the local storage before the additional volumes, everything else after them.
    if intent.purpose is Purpose.CLEAN:
        _add_local(found, spec)
    if intent.purpose not in {Purpose.PRUNE, Purpose.GC_LIFE_TIME}:
        found.volumes += [dict(volume) for volume in spec.get("additionalVolumes") or ()]
        found.mounts += [dict(mount) for mount in spec.get("additionalVolumeMounts") or ()]
    if intent.purpose in _OWN_STORAGE:
        _add_local(found, spec)
    if intent.purpose is Purpose.RESTORE:
        _add_local(found, spec.get("pitrFullBackupStorageProvider") or {})
    if spec.get("automountServiceAccountToken") is False:
        found.add(_token_volume(), {"name": "kube-api-access", "mountPath": TOKEN_DIR, "readOnly": True})
    if _TMP not in {str(mount.get("mountPath")).rstrip("/") for mount in found.mounts}:
        found.add_empty("tmp", _TMP)
    return found


def _add_local(found: Volumes, spec: Mapping[str, Any]) -> None:
    """A point-in-time restore may have its log and its snapshot in one volume: that is mounted once."""
    local = spec.get("local") or {}
    if local.get("volume") and local["volume"] not in found.volumes:
        found.volumes.append(dict(local["volume"]))
    if local.get("volumeMount") and local["volumeMount"] not in found.mounts:
        found.mounts.append(dict(local["volumeMount"]))


def _token_volume() -> dict[str, Any]:
    """What Kubernetes mounts by itself unless told not to; here for the main container alone."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": "kube-api-access", "projected": {"sources": sources}}
