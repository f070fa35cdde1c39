"""The Secret as an object of Kubernetes, and back."""

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from rotator.certificates import Pair, certificate_alone
from rotator.plan import Credentials, Step

STEP: Final = "tidb.pingcap.com/credentials-step"
CHANGED: Final = "tidb.pingcap.com/credentials-changed"
RENEW: Final = "tidb.pingcap.com/renew"
"""Annotation that asks for a renewal: ``kubectl annotate secret tidb-backup-webhook tidb.pingcap.com/renew=now``."""


def secret_data(credentials: Credentials) -> dict[str, str]:
    """The keys of the Secret, not encoded. The webhook mounts ``tls.crt``, ``tls.key`` and ``tokens``; Metacontroller reads
    ``token``; ``ca.crt`` is for whoever else wants to trust the webhook."""
    other = credentials.other
    return {
        "tls.crt": credentials.serving.certificate,
        "tls.key": credentials.serving.key,
        "tokens": "".join(f"{token}\n" for token in credentials.tokens),
        "token": credentials.token,
        "ca.crt": credentials.trusted,
        **({"other.crt": other.certificate, "other.key": other.key} if other else {}),
    }


def to_secret(credentials: Credentials, name: str, namespace: str, *, wanted: bool = False) -> dict[str, Any]:
    """The Secret to write; *wanted*: a renewal is still asked for."""
    changed = credentials.changed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in secret_data(credentials).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "tidb-backup-rotator", "app.kubernetes.io/part-of": "tidb-backup"},
            "annotations": {STEP: str(credentials.step), CHANGED: changed, **({RENEW: "now"} if wanted else {})},
        },
        "data": encoded,
    }


def from_secret(data: Mapping[str, str], annotations: Mapping[str, str]) -> Credentials:
    """What the Secret with *data* (base64) says. What is missing or cannot be read is empty, which :func:`plan` mends."""

    def text(key: str) -> str:
        with suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(data.get(key) or "", validate=True).decode()
        return ""

    step, changed = Step.STABLE, datetime(1970, 1, 1, tzinfo=UTC)
    with suppress(ValueError):
        step = Step(annotations.get(STEP, ""))
        changed = datetime.fromisoformat(annotations.get(CHANGED, ""))
    other = Pair(certificate=certificate_alone(text("other.crt")), key=text("other.key"))
    return Credentials(
        step=step,
        changed=changed if changed.tzinfo else changed.replace(tzinfo=UTC),
        serving=Pair(certificate=certificate_alone(text("tls.crt")), key=text("tls.key")),
        other=other if other.certificate else None,
        tokens=tuple(line.strip() for line in text("tokens").splitlines() if line.strip()),
        token=text("token").strip(),
    )
