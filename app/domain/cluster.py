"""The TiDB cluster that a CR names: a ``TidbCluster`` of TiDB Operator v1, a ``Cluster`` of v2, or one outside of Kubernetes
that is nothing but the address of its PD, behind one face.

Which of the two kinds are looked up is a setting, because Metacontroller refuses rules about CRDs that are not installed.
An address is given by annotation ``tidb.pingcap.com/pd-addr`` or as ``--pd`` in ``br.options``; ``br.cluster`` is then only a
name, by which runs on one cluster are kept apart. A cluster that is found in Kubernetes all the same is taken from there, with
that address.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from app.domain.config import ClusterKind, Config
from app.domain.observed import Object, Observed, condition, metadata, name_of
from crds.contract import identity
from crds.contract.versions import split_image

_TIDB_CLUSTER: Final = "TidbCluster.pingcap.com/v1alpha1"
_CLUSTER: Final = "Cluster.core.pingcap.com/v1alpha1"
_TIKV_GROUP: Final = "TiKVGroup.core.pingcap.com/v1alpha1"
_SKIP_TLS: Final = "tidb.tidb.pingcap.com/skip-tls-when-connect-tidb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a Job needs to know of its cluster.

    *version* is TiKV's, empty when nothing tells it. *pd_addr* is set where the default ``<name>-pd.<namespace>:2379`` does
    not hold. *tidb_tls* is about TiDB's MySQL port, *tls* about PD and TiKV. *tikv_config* is what *config_field* of the object
    holds; a cluster without an object has neither.
    """

    namespace: str
    name: str
    ready: bool = True
    version: str = ""
    tls: bool = False
    tidb_tls: bool = False
    skip_client_ca: bool = False
    pd_addr: str = ""
    tikv_config: object = field(default=None, repr=False, compare=False)
    config_field: str = ""


def named(spec: Mapping[str, Any], namespace: str) -> tuple[str, str] | None:
    """Namespace and name of the cluster in ``spec.br``; None when *spec* works without one."""
    br = spec.get("br") or {}
    return (str(br.get("clusterNamespace") or namespace), str(br["cluster"])) if br.get("cluster") else None


def related(spec: Mapping[str, Any], namespace: str, config: Config) -> list[dict[str, Any]]:
    """The customize rules that bring the cluster of *spec* into every sync."""
    where = named(spec, namespace)
    if where is None:
        return []
    rules: list[dict[str, Any]] = []
    by_name = {"namespace": where[0], "names": [where[1]]}
    if ClusterKind.TIDB_CLUSTER in config.cluster_kinds:
        rules.append({"apiVersion": "pingcap.com/v1alpha1", "resource": "tidbclusters", **by_name})
    if ClusterKind.CLUSTER in config.cluster_kinds:
        rules.append({"apiVersion": "core.pingcap.com/v1alpha1", "resource": "clusters", **by_name})
        # A group names its cluster in its spec, so only the namespace can be asked for.
        rules.append({"apiVersion": "core.pingcap.com/v1alpha1", "resource": "tikvgroups", "namespace": where[0]})
    return rules


def pd_address(observed: Observed) -> str:
    """Where the user says PD is; empty when the cluster's object or its name has to tell.

    br adds up several ``--pd``, so the manager gives none of its own when ``br.options`` has one.
    """
    return identity.pd_address(observed.spec, metadata(observed.parent).get("annotations") or {})


def find(observed: Observed, config: Config) -> Cluster | None:
    """The cluster of the observed CR; None when it is not there. With no kind to look up, or with the address of its PD, it is
    taken on trust."""
    where = named(observed.spec, observed.namespace)
    if where is None:
        return None
    given, found = pd_address(observed), _object(observed, *where)
    if found:
        return replace(found, pd_addr=given) if given else found
    if given or not config.cluster_kinds:
        return Cluster(namespace=where[0], name=where[1], pd_addr=given, version=_tool_version(observed.spec))
    return None


def _object(observed: Observed, namespace: str, name: str) -> Cluster | None:
    """The cluster as its object in Kubernetes tells."""
    key = f"{namespace}/{name}"
    if (v1 := (observed.related.get(_TIDB_CLUSTER) or {}).get(key)) is not None:
        return _of_v1(v1, namespace, name)
    if (v2 := (observed.related.get(_CLUSTER) or {}).get(key)) is not None:
        groups = (observed.related.get(_TIKV_GROUP) or {}).values()
        return _of_v2(v2, namespace, name, [group for group in groups if _belongs(group, namespace, name)])
    return None


def _tool_version(spec: Mapping[str, Any]) -> str:
    """With no object to ask, br's own tag stands for the version of the cluster that it was chosen for."""
    return split_image(str(spec.get("toolImage") or "")).tag


def _of_v1(obj: Object, namespace: str, name: str) -> Cluster:
    spec = obj.get("spec") or {}
    tidb = spec.get("tidb") or {}
    tls_client = tidb.get("tlsClient") or {}
    return Cluster(
        namespace=namespace,
        name=name,
        ready=condition(obj, "Ready") is not None,
        version=_tikv_version(spec),
        tls=bool((spec.get("tlsCluster") or {}).get("enabled")),
        tidb_tls=bool(tls_client.get("enabled")) and _SKIP_TLS not in (metadata(obj).get("annotations") or {}),
        skip_client_ca=bool(tls_client.get("skipInternalClientCA")),
        tikv_config=(spec.get("tikv") or {}).get("config"),
        config_field="spec.tikv.config",
    )


def _tikv_version(spec: Mapping[str, Any]) -> str:
    """With ``baseImage``, ``tikv.version`` or ``spec.version`` says it; else the image's tag, never its digest."""
    tikv = spec.get("tikv") or {}
    version = str(tikv.get("version") or spec.get("version") or "")
    if tikv.get("baseImage"):
        return version
    return split_image(str(tikv.get("image") or "")).tag or version


def _belongs(group: Object, namespace: str, name: str) -> bool:
    cluster = (group.get("spec") or {}).get("cluster") or {}
    return metadata(group).get("namespace") == namespace and cluster.get("name") == name


def _of_v2(obj: Object, namespace: str, name: str, groups: list[Object]) -> Cluster:
    pd = str((obj.get("status") or {}).get("pd") or "")
    template = (min(groups, key=name_of).get("spec") or {}).get("template") or {} if groups else {}
    return Cluster(
        namespace=namespace,
        name=name,
        ready=bool(pd) and bool(groups),
        version=str((template.get("spec") or {}).get("version") or ""),
        tls=bool(((obj.get("spec") or {}).get("tlsCluster") or {}).get("enabled")),
        pd_addr=pd.partition("://")[2] or pd,
        tikv_config=(template.get("spec") or {}).get("config"),
        config_field="spec.template.spec.config of the TiKVGroup",
    )
