"""The API's own documentation (``/docs``): what each route is for, with requests that can be sent and their real answers.

Bodies are read raw, so what FastAPI would derive from models is written here. The example answers are not: they are computed
by the very handlers when somebody asks for the document.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import FastAPI

from app.domain.times import stamp
from app.hooks.request import KINDS
from crds.contract import names

APPLICATION: Final[Mapping[str, Any]] = {
    "title": "TiDB backup hooks",
    "summary": "Metacontroller hooks for TiDB backup and restore on Kubernetes",
    "description": (
        "Each kind of custom resource has three hooks, in Metacontroller's wire format v2. **customize** says which related "
        "objects a CR needs, **sync** and **finalize** take a CR with its children and answer the children and the status it "
        "is to have. A child that is not in an answer is deleted by Metacontroller; an answer other than 200 changes nothing."
        "\n\n"
        "Nothing here talks to a cluster: the hooks can be tried with the examples below."
    ),
    "version": "v1alpha1",
}
NOW: Final = datetime(2026, 1, 31, 2, 0, 30, tzinfo=UTC)
"""The present of the example answers."""

_WHAT: Final[Mapping[str, str]] = {
    "customize": "Related objects of a {kind}",
    "sync": "Children and status of a {kind}",
    "finalize": "What is left to do before a {kind} may go",
}
_WHY: Final[Mapping[str, str]] = {
    "customize": "Asked when the spec changes, and answered from the spec alone.",
    "sync": (
        "Every observed child is in the answer, at least as a stub, unless a rule decided that it goes. "
        "A spec that cannot work is answered with condition `Invalid` and all children."
    ),
    "finalize": "Like sync, for a CR that is being deleted (`finalizing: true`); `finalized: true` lets it go.",
}
_S3: Final = {"provider": "aws", "region": "eu-central-1", "bucket": "tidb-backups", "prefix": "shop", "secretName": "s3"}
_DATABASE: Final = {"host": "tidb.shop.svc", "port": 4000, "user": "backup", "secretName": "tidb-backup-user"}
_SPECS: Final[Mapping[str, Mapping[str, Any]]] = {
    "backup": {"from": _DATABASE, "s3": _S3},
    "restore": {"to": _DATABASE, "s3": {**_S3, "prefix": "shop/nightly-5b6f1d9c"}},
    "backupschedule": {"schedule": "0 2 * * *", "maxBackups": 7, "backupTemplate": {"from": _DATABASE, "s3": _S3}},
    "compactbackup": {
        "br": {"cluster": "shop"},
        "s3": _S3,
        "startTs": "2026-01-30 00:00:00",
        "endTs": "2026-01-31 00:00:00",
    },
}
_CHILDREN: Final[Mapping[str, tuple[str, ...]]] = {
    "backupschedule": (f"Backup.{names.API_VERSION}", f"CompactBackup.{names.API_VERSION}"),
}
_OBJECT: Final = {"type": "object"}
_PARENT: Final = {
    "type": "object",
    "required": ["metadata"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "minLength": 1}, "namespace": {"type": "string"}},
        },
        "spec": _OBJECT,
        "status": {"type": "object", "maxProperties": 0},
    },
}
_OBJECTS: Final = {
    "type": "object",
    "description": "`Kind.group/version` to `namespace/name` to object.",
    "additionalProperties": {"type": "object", "additionalProperties": _OBJECT},
}
_ERROR: Final = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
            "example": {"error": "field parent is missing or no object"},
        }
    }
}
_RESPONSES: Final[Mapping[str, Mapping[str, Any]]] = {
    "400": {"description": "The body is empty or no JSON.", **_ERROR},
    "413": {"description": "The body is longer than the limit.", **_ERROR},
    "422": {"description": "The body is JSON, but no such request.", **_ERROR},
    "500": {"description": "No answer could be made; nothing is touched.", **_ERROR},
}


def example(path: str, operation: str) -> dict[str, Any]:
    """A request that can be sent to ``/<path>/<operation>``."""
    if path == "namespace":
        labels = {"tidb.pingcap.com/backup": "enabled"}
        meta = {"name": "shop", "labels": labels}
        return {"object": {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}, "attachments": {}, "finalizing": False}
    parent = {
        "apiVersion": names.API_VERSION,
        "kind": KINDS[path],
        "metadata": {
            "name": "nightly",
            "namespace": "shop",
            "uid": "5b6f1d9c-3c3c-4a51-9d1c-3f1f1a2b3c4d",
            "generation": 1,
            "creationTimestamp": "2026-01-30T12:00:00Z",
            "managedFields": [{"manager": "metacontroller", "operation": "Update", "time": stamp(NOW)}],
        },
        "spec": _SPECS[path],
    }
    if operation == "customize":
        return {"parent": parent}
    children: dict[str, Any] = {kind: {} for kind in _CHILDREN.get(path, ("Job.batch/v1",))}
    return {"parent": parent, "children": children, "related": {}, "finalizing": operation == "finalize"}


def _request_schema(path: str, operation: str) -> dict[str, Any]:
    if path == "namespace":
        required, properties = ["object", "attachments"], {"object": _OBJECT, "attachments": _OBJECTS}
        return {"type": "object", "required": required, "properties": properties}
    properties = {"parent": {**_PARENT, "properties": {**_PARENT["properties"], "kind": {"const": KINDS[path]}}}}  # type: ignore[dict-item]
    if operation == "customize":
        return {"type": "object", "required": ["parent"], "properties": properties}
    flag: dict[str, Any] = {"const": True} if operation == "finalize" else {"type": "boolean"}
    properties |= {"children": _OBJECTS, "related": _OBJECTS, "finalizing": flag}
    required = ["parent", "children", *(["finalizing"] if operation == "finalize" else [])]
    return {"type": "object", "required": required, "properties": properties}


def _operation(path: str, operation: str, answer: Any) -> dict[str, Any]:
    """What the document says about ``POST /<path>/<operation>``."""
    kind = KINDS.get(path, "Namespace")
    content = {"schema": _request_schema(path, operation), "example": example(path, operation)}
    answered = {"application/json": {"schema": _OBJECT, "example": answer}}
    return {
        "operationId": f"{path}_{operation}",
        "summary": _WHAT[operation].format(kind=kind),
        "description": _WHY[operation],
        "tags": [kind],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {"200": {"description": "Obeyed by Metacontroller.", "content": answered}, **_RESPONSES},
    }


def describe(app: FastAPI, answers: Mapping[tuple[str, str], Callable[[dict[str, Any]], bytes]]) -> None:
    """Put the hooks into the document of *app*, each with the answer that its handler in *answers* gives to the example. Made
    when somebody asks for it."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            paths = plain()["paths"]
            for (path, operation), handle in answers.items():
                answer = orjson.loads(handle(example(path, operation)))
                paths[f"/{path}/{operation}"] = {"post": _operation(path, operation, answer)}
        return app.openapi_schema or plain()

    app.openapi = described  # type: ignore[method-assign]
