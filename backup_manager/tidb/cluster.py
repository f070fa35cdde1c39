"""Which TiDB cluster a run works on, and where its PD is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from backup_manager.errors import UsageError
from crds.contract import names

PD_PORT: Final = 2379


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The TiDB cluster that br works on. *pd* is ``host:port``, several with a comma; *namespace* and *name* identify it."""

    pd: str
    tls: bool = False
    namespace: str = ""
    name: str = ""
    pd_in_options: bool = False

    @classmethod
    def of(cls, br: Mapping[str, Any], namespace: str, *, tls: bool, pd_addr: str = "") -> "Cluster":
        """From ``spec.br``; its namespace is the CR's unless it names one. Raises UsageError.

        Where its PD is: ``--pd`` in the user's options (a cluster outside of Kubernetes), else *pd_addr* (TiDB Operator v2 says
        it), else TiDB Operator v1's service. br would add up several ``--pd``, so only one is ever given.
        """
        cluster = str(br.get("cluster") or "")
        if not cluster:
            raise UsageError("spec.br.cluster is empty", hint="Name the TidbCluster to back up or restore.")
        where = str(br.get("clusterNamespace") or namespace)
        own = _option(br, "--pd", "-u")
        pd = own or pd_addr or f"{cluster}-pd.{where}:{PD_PORT}"
        return cls(pd=pd, tls=tls, namespace=where, name=cluster, pd_in_options=bool(own))

    @property
    def flags(self) -> list[str]:
        """``--pd``, unless the user's options have it, and the TLS files."""
        folder = names.CLUSTER_TLS_DIR
        tls = [f"--ca={folder}/ca.crt", f"--cert={folder}/tls.crt", f"--key={folder}/tls.key"] if self.tls else []
        return [*([] if self.pd_in_options else [f"--pd={self.pd}"]), *tls]


def _option(br: Mapping[str, Any], *flags: str) -> str:
    """The value of the last one of *flags* in the user's options, in either form of Go; empty without one."""
    options, found = [str(option) for option in br.get("options") or ()], ""
    for index, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name in flags:
            found = value if equals else next(iter(options[index + 1 : index + 2]), "")
    return found
