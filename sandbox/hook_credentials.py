"""Certificate and token of the local webhook.

In a cluster the rotator makes them, and kubelets mount what the webhook is to see. Here the rotator's own functions make them,
and this module stands for the kubelet.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rotator.plan import Policy, plan
from rotator.secret import secret_data, to_secret
from sandbox.api import Object
from sandbox.layout import Layout
from sandbox.ports import HOST

NAME: Final = "tidb-backup-webhook"
NAMESPACE: Final = "tidb-backup-system"
_MOUNTED: Final = ("tls.crt", "tls.key", "tokens")
_KEPT: Final = (*_MOUNTED, "token", "ca.crt")


def make_credentials(layout: Layout) -> Object:
    """The Secret that the rotator's first pass would write; its files are put in place for the webhook."""
    policy = Policy(names=[HOST], renew_after=timedelta(days=30), life=timedelta(days=90))
    change = plan(None, policy, datetime.now(UTC))
    assert change is not None
    mount(layout, secret_data(change.credentials))
    return to_secret(change.credentials, NAME, NAMESPACE)


def mount(layout: Layout, data: Mapping[str, str]) -> None:
    """Put the values of the Secret where the webhook and the caller find them, each at once."""
    layout.hook_credentials.mkdir(parents=True, exist_ok=True)
    for key in _KEPT:
        fresh = layout.hook_credentials / f".{key}"
        fresh.touch(mode=0o600)
        fresh.write_text(data[key])
        fresh.replace(layout.hook_credentials / key)


def webhook_settings(folder: Path) -> dict[str, str]:
    """The settings that name the mounted files, as the manifests have them."""
    names = ("TIDB_BACKUP_TLS_CERT_FILE", "TIDB_BACKUP_TLS_KEY_FILE", "TIDB_BACKUP_TOKEN_FILE")
    return dict(zip(names, (str(folder / key) for key in _MOUNTED), strict=True))
