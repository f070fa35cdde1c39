"""Where backups lie: the four storages of TiDB Operator, of which a spec names one."""

from typing import Any, ClassVar

from pydantic import Field

from crds.v1alpha1.common import Model, Rule, Volume, VolumeMount


class S3Storage(Model):
    """A bucket of Amazon S3 or of anything that speaks its protocol.

    Without ``secretName`` the Pod's own identity is used (IRSA, instance profile). The Secret has the keys ``access_key`` and
    ``secret_key``.
    """

    provider: str = Field(description="aws, ceph, or the name of another S3-compatible service such as minio.")
    region: str = Field(default="", description="Region of the bucket.")
    path: str = Field(default="", description="For an import: <bucket>/<path> of the exported data or archive.")
    bucket: str = Field(default="", description="Name of the bucket, or bucket/start-of-prefix.")
    endpoint: str = Field(default="", description="URL of the service, with scheme; Amazon's own when empty.")
    storage_class: str = Field(default="", description="Storage class of new objects; STANDARD_IA for aws when empty.")
    acl: str = Field(default="", description="Canned ACL of new objects; private for aws when empty.")
    secret_name: str = Field(default="", description="Secret with the keys access_key and secret_key.")
    prefix: str = Field(default="", description="Folder in the bucket.")
    sse: str = Field(default="", description="Server-side encryption, for example AES256.")
    options: list[str] = Field(
        default_factory=list, description="Options of rclone, by which TiDB Operator copies; without effect here."
    )
    force_path_style: bool | None = Field(default=None, description="Whether the bucket is in the path, not the host name.")


class GcsStorage(Model):
    """A bucket of Google Cloud Storage.

    Without ``secretName`` the Pod's own identity is used (workload identity). The Secret has the key ``credentials``.
    """

    project_id: str = Field(description="Project of the bucket.")
    location: str = Field(default="", description="Location of the bucket.")
    path: str = Field(default="", description="For an import: <bucket>/<path> of the exported data or archive.")
    bucket: str = Field(default="", description="Name of the bucket.")
    storage_class: str = Field(default="", description="Storage class of new objects.")
    object_acl: str = Field(default="", description="Predefined ACL of new objects.")
    bucket_acl: str = Field(default="", description="Predefined ACL of a new bucket; buckets are never made here.")
    secret_name: str = Field(default="", description="Secret with the key credentials: a service account's JSON.")
    prefix: str = Field(default="", description="Folder in the bucket.")


class AzblobStorage(Model):
    """A container of Azure Blob Storage.

    The Secret has the keys ``AZURE_STORAGE_ACCOUNT`` and ``AZURE_STORAGE_KEY``, or ``AZURE_CLIENT_ID``,
    ``AZURE_CLIENT_SECRET`` and ``AZURE_TENANT_ID``.
    """

    path: str = Field(default="", description="For an import: <container>/<path> of the exported data or archive.")
    container: str = Field(default="", description="Name of the container.")
    access_tier: str = Field(default="", description="Access tier of new blobs; Cool when empty.")
    secret_name: str = Field(default="", description="Secret with the account's key or a service principal.")
    storage_account: str = Field(default="", description="Name of the storage account; wins over the Secret's.")
    sas_token: str = Field(default="", repr=False, description="Shared access signature; prefer a Secret.")
    prefix: str = Field(default="", description="Folder in the container.")


class LocalStorage(Model):
    """A volume that every node of the cluster (for br) and the Job mount at the same path."""

    volume: Volume = Field(description="The volume.")
    volume_mount: VolumeMount = Field(description="Where it is mounted.")
    prefix: str = Field(default="", description="Folder in the volume.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="volumeMount",
            cel="self.volumeMount.name == self.volume.name",
            message="volumeMount.name must be the name of the volume; set both to the same name",
            holds=lambda local: local.volume_mount["name"] == local.volume["name"],
        ),
        Rule(
            field="volumeMount",
            cel="!self.volumeMount.mountPath.contains(':')",
            message="volumeMount.mountPath must not contain ':'; set another path",
            holds=lambda local: ":" not in str(local.volume_mount["mountPath"]),
        ),
    )


def _storages(spec: Any) -> int:
    return sum(storage is not None for storage in (spec.s3, spec.gcs, spec.azblob, spec.local))


class StorageProvider(Model):
    """At most one storage. Upstream takes the first of several; here two are refused, since one of them is a mistake."""

    s3: S3Storage | None = Field(default=None, description="Amazon S3 or compatible.")
    gcs: GcsStorage | None = Field(default=None, description="Google Cloud Storage.")
    azblob: AzblobStorage | None = Field(default=None, description="Azure Blob Storage.")
    local: LocalStorage | None = Field(default=None, description="A mounted volume.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="",
            cel="[has(self.s3), has(self.gcs), has(self.azblob), has(self.local)].filter(one, one).size() <= 1",
            message="more than one storage; set only one of s3, gcs, azblob, local",
            holds=lambda spec: _storages(spec) <= 1,
        ),
    )
