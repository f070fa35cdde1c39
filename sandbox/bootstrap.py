"""What is done once to each server after its start: users and settings of TiDB, the bucket, the kubeconfig."""

from pathlib import Path
from typing import Final

import urllib3
import yaml
from urllib3.exceptions import HTTPError

from sandbox.errors import SandboxError
from sandbox.layout import Layout
from sandbox.patience import CONNECT
from sandbox.ports import HOST

BUCKET: Final = "backups"
_REGION: Final = "us-east-1"
_ACCESS_DENIED: Final = 1045


def prepare_tidb(port: int, password: str) -> bool:
    """Give root a password, and TiDB its GC row (absent in a new embedded store). False while it does not answer yet."""
    import pymysql  # noqa: PLC0415 - only a start needs it; 'status' and 'logs' are to answer at once

    try:
        connection = pymysql.connect(
            host=HOST, port=port, user="root", password="", connect_timeout=CONNECT, read_timeout=CONNECT
        )
        with connection, connection.cursor() as cursor:
            cursor.execute("SET GLOBAL tidb_gc_life_time = '10m0s'")
            cursor.execute("ALTER USER 'root'@'%%' IDENTIFIED BY %s", (password,))
    except pymysql.OperationalError as error:
        return bool(error.args[0] == _ACCESS_DENIED)  # then the password is set already: this is a restart
    return True


def make_bucket(port: int, access_key: str, secret_key: str) -> bool:
    """Create the bucket :data:`BUCKET`. False while the server does not answer yet; SandboxError when it refuses."""
    from botocore.auth import S3SigV4Auth  # noqa: PLC0415 - as above
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415

    url = f"http://{HOST}:{port}/{BUCKET}"
    request = AWSRequest(method="PUT", url=url, data=b"")
    S3SigV4Auth(Credentials(access_key, secret_key), "s3", _REGION).add_auth(request)
    try:
        answer = urllib3.request("PUT", url, headers=dict(request.headers.items()), timeout=CONNECT, retries=False)
    except HTTPError:
        return False
    if answer.status in {401, 403}:
        raise SandboxError(f"S3 refuses its own key: {answer.status} {answer.data[:200]!r}")
    return answer.status == 200 or b"BucketAlready" in answer.data


def write_kubeconfig(layout: Layout) -> Path:
    """The administrator's kubeconfig."""
    server = f"https://{HOST}:{layout.state.ports['apiserver']}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sandbox",
        "clusters": [
            {"name": "sandbox", "cluster": {"server": server, "certificate-authority": str(layout.certificates / "ca.crt")}}
        ],
        "users": [{"name": "admin", "user": {"token": layout.state.api_token}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "admin", "namespace": "default"}}],
    }
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(yaml.safe_dump(config, sort_keys=False))
    return layout.kubeconfig
