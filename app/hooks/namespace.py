"""The DecoratorController on Namespaces: whoever labels one gets the account that Jobs run as, and its rights.

Its wire format differs from the CompositeControllers': ``object`` and ``attachments`` in place of ``parent`` and
``children``, and a missing status means "leave it alone". Omission is deletion here too, so every observed attachment is
echoed: an account is in use by running Jobs, and a Role that an older version made may still be bound by somebody.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from app.builders.namespace import build_rights
from app.domain.config import Config
from app.domain.observed import Object, metadata, name_of

Key = tuple[str, str, str]
"""apiVersion, kind and name of an attachment; its namespace is always the parent's."""


class NamespaceRequestError(ValueError):
    """The request is no sync of a Namespace; answered 4xx."""


def _observed(attachments: Mapping[str, Mapping[str, Object]]) -> Iterator[tuple[Key, Object]]:
    for outer, group in attachments.items():
        kind, _, api_version = outer.partition(".")
        for attachment in group.values():
            yield (api_version, kind, name_of(attachment)), attachment


def _kept(key: Key, attachment: Object) -> dict[str, Any]:
    """Enough of an observed *attachment* to keep it. A Role is updated in place, so its rules have to be said again."""
    api_version, kind, name = key
    kept: dict[str, Any] = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": metadata(attachment).get("namespace")},
    }
    if kind == "Role":
        kept["rules"] = attachment.get("rules") or []
    return kept


def _terminating(namespace: Object) -> bool:
    phase = (namespace.get("status") or {}).get("phase")
    return phase == "Terminating" or "deletionTimestamp" in metadata(namespace)


def sync(request: Mapping[str, Any], config: Config) -> bytes:
    """Body of the answer to ``POST /namespace/sync``. Raises NamespaceRequestError.

    Nothing is made in a namespace that is going: Kubernetes would refuse it, again and again.
    """
    namespace, attachments = request.get("object"), request.get("attachments")
    if not isinstance(namespace, Mapping) or namespace.get("kind") != "Namespace" or not name_of(namespace):
        raise NamespaceRequestError("field object: expected a Namespace with a name")
    if not isinstance(attachments, Mapping) or not all(isinstance(group, Mapping) for group in attachments.values()):
        raise NamespaceRequestError("field attachments: expected a map of kinds to maps of objects")
    answer = {key: _kept(key, attachment) for key, attachment in _observed(attachments)}
    if not _terminating(namespace):
        for right in build_rights(name_of(namespace), config):
            answer[right["apiVersion"], right["kind"], name_of(right)] = right
    return orjson.dumps({"attachments": [answer[key] for key in sorted(answer)]}, option=orjson.OPT_SORT_KEYS)
