"""Kubernetes objects: from files (``kubectl get ... -o yaml`` dumps too), and where commands look for them."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import yaml

from backup_manager.errors import NotFoundError, UsageError
from crds.v1alpha1 import KINDS

Object = Mapping[str, Any]
DEFAULT_NAMESPACE: Final = "default"


class Source(Protocol):
    """Where objects come from: files or a cluster."""

    @property
    def namespace(self) -> str:
        """The namespace to look in."""

    def list(self, kind: str, *, everywhere: bool = False) -> list[Object]:
        """Objects of *kind* in the namespace, or in all, sorted. There are none of a kind that is not installed."""

    def get(self, kind: str, name: str) -> Object:
        """One object of the namespace. Raises NotFoundError."""

    def log_tail(self, pod: str, lines: int) -> str:
        """The last lines of a Pod's log; empty when there is none."""


def key_of(obj: Object) -> tuple[str, str, str]:
    """Kind, namespace and name."""
    meta = obj.get("metadata") or {}
    return str(obj.get("kind") or ""), str(meta.get("namespace") or ""), str(meta.get("name") or "")


def shown(obj: Object) -> str:
    """``Kind namespace/name``."""
    kind, namespace, name = key_of(obj)
    return f"{kind} {namespace}/{name}"


class Files:
    """Objects read from files. Those without a namespace are in *namespace*, as ``kubectl apply`` would put them."""

    def __init__(self, objects: Iterable[Mapping[str, Any]], *, namespace: str = "", logs: str = "") -> None:
        self._chosen = namespace
        self._logs = logs
        self.objects: Sequence[Object] = [_placed(item, namespace or DEFAULT_NAMESPACE) for item in objects]

    @property
    def namespace(self) -> str:
        """The one that was asked for, else the only one that CRs are in."""
        found = {key_of(item)[1] for item in self.objects if item.get("kind") in KINDS}
        return self._chosen or (found.pop() if len(found) == 1 else DEFAULT_NAMESPACE)

    def list(self, kind: str, *, everywhere: bool = False) -> list[Object]:
        """Those of *kind*; files are small worlds, so without a namespace asked for all count."""
        anywhere = everywhere or not self._chosen
        found = [item for item in self.objects if item.get("kind") == kind]
        return sorted((item for item in found if anywhere or key_of(item)[1] == self._chosen), key=key_of)

    def get(self, kind: str, name: str) -> Object:
        """The one of that name."""
        found = [item for item in self.list(kind) if key_of(item)[2] == name]
        if not found:
            there = ", ".join(key_of(item)[2] for item in self.list(kind)) or "none"
            raise NotFoundError(f"the files hold no {kind} {name!r}", hint=f"There are: {there}.")
        if len(found) > 1:
            places = ", ".join(key_of(item)[1] for item in found)
            raise UsageError(f"the files hold several {kind} {name!r}, in {places}", hint="Choose with --namespace.")
        return found[0]

    def log_tail(self, pod: str, lines: int) -> str:
        """The text that was given as the log."""
        return "\n".join(self._logs.splitlines()[-lines:])


def _placed(item: Mapping[str, Any], namespace: str) -> Object:
    meta = dict(item.get("metadata") or {})
    if item.get("kind") not in {"Namespace", "Node"}:
        meta["namespace"] = meta.get("namespace") or namespace
    return {**item, "metadata": meta}


def read_files(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Every object of the files; ``-`` is stdin, a folder stands for its YAML and JSON files. Raises UsageError."""
    found: list[dict[str, Any]] = []
    for path in paths:
        for name, text in _texts(path):
            found += _objects(_parse(name, text), name)
    if not found:
        raise UsageError(f"{', '.join(paths)}: no object in it", hint="Give YAML or JSON with Backups or BackupSchedules.")
    return found


def _texts(path: str) -> Iterable[tuple[str, str]]:
    if path == "-":
        yield "stdin", sys.stdin.read()
        return
    place = Path(path)
    try:
        files = sorted(p for p in place.iterdir() if p.suffix in {".yaml", ".yml", ".json"}) if place.is_dir() else [place]
        for file in files:
            yield str(file), file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}", hint="Give the path of a YAML or JSON file.") from None


def _parse(name: str, text: str) -> list[Any]:
    try:
        if text.lstrip()[:1] == "{":
            return [orjson.loads(text)]
        return list(yaml.load_all(text, Loader=_Loader))
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{name} is no JSON: {error}", hint="Correct the file.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())[:200]}", hint="Correct the file.") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Times stay texts, as the API server has them. On libyaml where it is there: a dump may hold thousands of Backups."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _objects(documents: Iterable[Any], name: str) -> Iterable[dict[str, Any]]:
    """Each object; the items of a List one by one."""
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise UsageError(f"{name} holds something that is no Kubernetes object", hint="Every document needs a kind.")
        if document["kind"].endswith("List") and isinstance(document.get("items"), list):
            yield from _objects(document["items"], name)
            continue
        meta = document.get("metadata")
        if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
            raise UsageError(f"{name}: a {document['kind']} has no metadata.name", hint="Give the object a name.")
        if wrong := next(_misshapen(document), ""):
            hint = "Correct the file; what kubectl writes is right."
            raise UsageError(f"{name}: {document['kind']} {meta['name']!r}: {wrong}", hint=hint)
        yield document


def _misshapen(document: Mapping[str, Any]) -> Iterator[str]:
    """What an API server would never have let in, and what commands therefore take for granted."""
    meta = document["metadata"]
    for field in ("namespace", "uid", "creationTimestamp", "deletionTimestamp"):
        if not isinstance(meta.get(field, ""), str | None):
            yield f"metadata.{field} is no text"
    for field in ("labels", "annotations"):
        pairs = meta.get(field) or {}
        if not isinstance(pairs, dict) or not all(isinstance(text, str) for pair in pairs.items() for text in pair):
            yield f"metadata.{field} is no list of names and texts"
    for place, field in ((meta, "ownerReferences"), (document.get("status"), "conditions")):
        items = (place.get(field) if isinstance(place, dict) else None) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            yield f"{field} is no list of objects"
    for field in ("spec", "status"):
        if not isinstance(document.get(field), dict | None):
            yield f"{field} is no object"
        elif not isinstance((document.get(field) or {}).get("phase", ""), str | None):
            yield f"{field}.phase is no text"
    try:
        orjson.dumps(document)
    except TypeError as error:
        yield str(error)
