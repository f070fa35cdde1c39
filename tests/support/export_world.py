"""Exports in a namespace of the sandbox: what the end-to-end tests of dumpling's Backups have in common."""

from contextlib import closing

import boto3
import pymysql

from sandbox import Cluster
from sandbox.api import JOBS, Object
from sandbox.patience import until

BACKUP = """
apiVersion: pingcap.com/v1alpha1
kind: Backup
metadata: {name: "@NAME@"}
spec:
  cleanPolicy: Delete
  backoffRetryPolicy: {minRetryDuration: 1s, maxRetryTimes: 2, retryTimeout: 10m}
  from: {host: "${TIDB_SOURCE_HOST}", port: ${TIDB_SOURCE_PORT}, user: root, secretName: tidb-secret}
  tableFilter: ["scenario.*"]
  s3:
    provider: aws
    region: us-east-1
    endpoint: "@ENDPOINT@"
    bucket: ${S3_BUCKET}
    secretName: "@SECRET@"
    prefix: "@PREFIX@"
"""


def filled(name: str, *, endpoint: str, secret: str, prefix: str) -> str:
    """The Backup as YAML."""
    text = BACKUP
    for key, value in {"@NAME@": name, "@ENDPOINT@": endpoint, "@SECRET@": secret, "@PREFIX@": prefix}.items():
        text = text.replace(key, value)
    return text


class World:
    """One namespace with its own folder in the bucket, and a neighbour that nobody may touch."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        bucket = cluster.bucket
        self.bucket = bucket.name
        self.s3 = boto3.client(
            "s3",
            endpoint_url=bucket.endpoint,
            aws_access_key_id=bucket.access_key,
            aws_secret_access_key=bucket.secret_key,
            region_name="us-east-1",
        )
        self.neighbours = [f"{namespace}/keep.txt", f"{namespace}-other/keep.txt"]
        for key in self.neighbours:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"mine")

    def back_up(self, name: str = "it", *, endpoint: str = "${S3_ENDPOINT}", secret: str = "s3-secret") -> None:
        """Apply a Backup."""
        self.cluster.apply(filled(name, endpoint=endpoint, secret=secret, prefix=self.namespace), namespace=self.namespace)

    def backup(self, name: str = "it") -> Object | None:
        return self.cluster.get("Backup", name, self.namespace)

    def status(self, name: str = "it") -> Object:
        found: Object = (self.backup(name) or {}).get("status") or {}
        return found

    def reaches(self, phase: str, name: str = "it") -> Object:
        """Wait for a phase and return the status."""
        until(lambda: self.status(name).get("phase") == phase, lambda: f"{name} is {phase}; it is {self.status(name)}")
        return self.status(name)

    def delete(self, name: str = "it", *flags: str) -> None:
        self.cluster.kubectl("delete", "backup", name, "-n", self.namespace, "--wait=false", *flags)

    def gone(self, name: str = "it") -> None:
        until(lambda: self.backup(name) is None, lambda: f"{name} is gone; it is {self.status(name)}")

    def jobs(self) -> dict[str, str]:
        """Names and uids of the Jobs."""
        items = self.cluster.api.list(JOBS, self.namespace)["items"]
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def running_pod(self) -> str:
        """Name of the Pod that runs now."""

        def found() -> list[str]:
            pods = self.cluster.pods(self.namespace)
            return [pod["metadata"]["name"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]

        running: list[str] = until(found, "a Pod runs")
        return running[0]

    def objects(self) -> list[str]:
        """Everything in the folder but the neighbours, and what the records keep after a clean."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.namespace)
        found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        kept = (".record.json", "/.history/")
        return [key for key in found if key not in self.neighbours and not any(mark in key for mark in kept)]

    def neighbours_stand(self) -> None:
        for key in self.neighbours:
            self.s3.head_object(Bucket=self.bucket, Key=key)


def seed(cluster: Cluster) -> None:
    """A small table in the source."""
    database = cluster.tidb("source")
    connection = pymysql.connect(
        host=database.host, port=database.port, user=database.user, password=database.password, autocommit=True
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE IF NOT EXISTS scenario")
        cursor.execute("CREATE TABLE IF NOT EXISTS scenario.t (id INT PRIMARY KEY, v VARCHAR(100))")
        cursor.executemany("REPLACE INTO scenario.t VALUES (%s, %s)", [(number, f"row {number}") for number in range(500)])
