"""CRs for br in a namespace of the sandbox, against clusters of minikv: what the end-to-end tests of br have in common.

The clusters are outside of Kubernetes: their PD is in ``br.options``.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from crds.contract import names
from sandbox import Cluster
from sandbox.api import JOBS, Object
from sandbox.minikv import MiniKV, minikv_with_tidb
from sandbox.patience import until
from tests.support.servers import Tidb


@dataclass(frozen=True, kw_only=True)
class Tikv:
    """One cluster: its PD and its SQL."""

    kv: MiniKV
    db: Tidb


@contextmanager
def tikv(folder: Path, *seed: str, log_backup: bool = False) -> Iterator[Tikv]:
    """A new cluster in *folder*, with what the statements of *seed* put into it."""
    with minikv_with_tidb(folder, log_backup=log_backup) as (kv, tidb):
        made = Tikv(kv=kv, db=Tidb(port=tidb.port))
        made.db.execute(*seed)
        yield made


@dataclass(frozen=True, kw_only=True)
class World:
    """One namespace of the sandbox, with its own folder in the bucket."""

    cluster: Cluster
    namespace: str

    def s3(self, prefix: str, secret: str = "s3-secret") -> Object:
        """A storage in the bucket."""
        place = {"endpoint": "${S3_ENDPOINT}", "bucket": "${S3_BUCKET}", "prefix": f"{self.namespace}/{prefix}"}
        return {"s3": {"provider": "aws", "region": "us-east-1", "secretName": secret, "forcePathStyle": True, **place}}

    def apply(
        self,
        kind: str,
        name: str,
        tikv: Tikv,
        storage: Object,
        *,
        cluster: str = "basic",
        labels: Object | None = None,
        **spec: Any,
    ) -> None:
        """A CR of *kind* for br; ``br_...`` go into ``spec.br``."""
        br = {key.removeprefix("br_"): spec.pop(key) for key in list(spec) if key.startswith("br_")}
        policy = {"minRetryDuration": "2s", "maxRetryTimes": 2, "retryTimeout": "10m"}
        body = {
            "br": {"cluster": cluster, "options": [f"--pd={tikv.kv.pd}"], **br},
            "toolImage": "pingcap/br:v8.5.0",
            "backoffRetryPolicy": policy,
            **storage,
            **({"cleanPolicy": "Delete"} if kind == "Backup" else {}),
            **({"backupType": "full"} | spec),
        }
        meta = {"name": name, "labels": labels or {}}
        cr = {"apiVersion": "pingcap.com/v1alpha1", "kind": kind, "metadata": meta, "spec": body}
        self.cluster.apply(json.dumps(cr), namespace=self.namespace)

    def edit(self, name: str, **spec: Any) -> None:
        """Change fields of a Backup's spec; None removes one."""
        resource = self.cluster.api.resource_of(names.API_VERSION, "Backup")
        self.cluster.api.patch(resource, self.namespace, name, {"spec": spec})

    def status(self, name: str, kind: str = "Backup") -> Object:
        found: Object = (self.cluster.get(kind, name, self.namespace) or {}).get("status") or {}
        return found

    def reaches(self, phase: str, name: str, kind: str = "Backup") -> Object:
        """Wait for a phase; the status. Another end than that is a failure at once."""

        def there() -> bool:
            now = self.status(name, kind).get("phase")
            assert now == phase or now not in {"Failed", "Invalid"}, self.told(name, kind)
            return bool(now == phase)

        until(there, lambda: f"{phase}: {self.told(name, kind)}")
        return self.status(name, kind)

    def told(self, name: str, kind: str) -> str:
        status = self.status(name, kind)
        return json.dumps({key: status.get(key) for key in ("phase", "conditions", "backoffRetryStatus")})

    def failed(self, name: str, kind: str = "Backup") -> Object:
        """The condition of a failure."""
        status = self.reaches("Failed", name, kind)
        found: Object = next(item for item in status["conditions"] if item["type"] == "Failed")
        return found

    @property
    def client(self) -> Any:
        """The bucket's server."""
        return boto3.client(
            "s3",
            endpoint_url=self.cluster.bucket.endpoint,
            aws_access_key_id=self.cluster.bucket.access_key,
            aws_secret_access_key=self.cluster.bucket.secret_key,
            region_name="us-east-1",
        )

    def objects(self, prefix: str) -> list[str]:
        """Keys of data under *prefix*."""
        start = f"{self.namespace}/{prefix}/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.cluster.bucket.name, Prefix=start)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.cluster.bucket.name, Key=key)

    def delete(self, name: str) -> None:
        """Delete a Backup and wait until it is gone."""
        self.cluster.kubectl("delete", "backup", name, "-n", self.namespace, "--wait=false")
        until(lambda: self.cluster.get("Backup", name, self.namespace) is None, lambda: self.told(name, "Backup"))

    def running_pod(self) -> str:
        def found() -> list[str]:
            pods = self.cluster.pods(self.namespace)
            return [pod["metadata"]["name"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]

        running: list[str] = until(found, lambda: "no Pod runs")
        return running[0]

    def jobs(self) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.cluster.api.list(JOBS, self.namespace)["items"])
