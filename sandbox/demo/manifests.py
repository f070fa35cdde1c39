"""The CRs of the demo, as a user would write them; ``${NAME}`` are filled in by the sandbox."""

from pathlib import Path
from typing import Final

from sandbox.demo.data import DATABASE

NAMESPACE: Final = "demo"
_STORAGE: Final = """
    provider: aws
    region: us-east-1
    endpoint: ${S3_ENDPOINT}
    bucket: ${S3_BUCKET}
    secretName: s3-secret
"""
_SOURCE: Final = '{host: "${TIDB_SOURCE_HOST}", port: ${TIDB_SOURCE_PORT}, user: root, secretName: tidb-secret}'

BACKUP: Final = f"""
apiVersion: pingcap.com/v1alpha1
kind: Backup
metadata: {{name: flights, namespace: {NAMESPACE}}}
spec:
  cleanPolicy: Delete
  from: {_SOURCE}
  tableFilter: ["{DATABASE}.*"]
  s3:{_STORAGE}    prefix: demo
"""

SCHEDULE: Final = f"""
apiVersion: pingcap.com/v1alpha1
kind: BackupSchedule
metadata: {{name: airlines, namespace: {NAMESPACE}}}
spec:
  schedule: "@every 20s"
  maxBackups: 2
  backupTemplate:
    cleanPolicy: Delete
    from: {_SOURCE}
    tableFilter: ["{DATABASE}.airlines"]
    s3:
      provider: aws
      region: us-east-1
      endpoint: ${{S3_ENDPOINT}}
      bucket: ${{S3_BUCKET}}
      secretName: s3-secret
      prefix: demo-schedule
"""


def restore(name: str, path: str) -> str:
    """Import the export at *path* (bucket and key) into the TiDB ``target``."""
    return f"""
apiVersion: pingcap.com/v1alpha1
kind: Restore
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  to: {{host: "${{TIDB_TARGET_HOST}}", port: ${{TIDB_TARGET_PORT}}, user: root, secretName: tidb-secret}}
  s3:{_STORAGE}    path: {path}
"""


def br_s3() -> str:
    """A place in the bucket."""
    return f"  s3:{_STORAGE}    prefix: demo-br"


def br_volume(folder: Path) -> str:
    """A folder that the store and the Jobs see at the same path, as br wants it."""
    return f"""  local:
    prefix: flights
    volume: {{name: backups, hostPath: {{path: "{folder}"}}}}
    volumeMount: {{name: backups, mountPath: "{folder}"}}"""


def br_backup(name: str, storage: str) -> str:
    """Back up the flights of the cluster ``source``, which is outside of Kubernetes: its PD is in ``br.options``."""
    return (
        _of_br("Backup", name, "source", storage)
        + f"""
  cleanPolicy: Delete
  tableFilter: ["{DATABASE}.*"]
"""
    )


def br_restore(name: str, storage: str) -> str:
    """Restore into the cluster ``empty``."""
    return _of_br("Restore", name, "empty", storage)


def _of_br(kind: str, name: str, cluster: str, storage: str) -> str:
    return f"""
apiVersion: pingcap.com/v1alpha1
kind: {kind}
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  backupType: full
  br: {{cluster: {cluster}, options: ["--pd=${{PD_{cluster.upper()}}}"]}}
  toolImage: pingcap/br:v8.5.0
{storage}"""
