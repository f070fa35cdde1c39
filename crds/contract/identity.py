"""Which fields of a spec say what a run works on, and what is recorded of them when it starts.

The record decides everything after the start: a retry, a command of a log backup, a clean. An edit of one of these fields must
not send such a step to another path, cluster or database, so the hook and the manager both work on :func:`apply` of the record
and never on what the spec says since. The record is a flat map from the field's path to its text, without secrets, and without
what was not set: ``{"backupMode": "log", "br.cluster": "basic", "s3.bucket": "b", "s3.prefix": "log-a", ...}``.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import msgspec

from crds.contract import names
from crds.contract.paths import Location, PathError, Provider, location_of, provider_of, without_user

Recorded = Mapping[str, str]
"""Field path to text."""

PD_ADDRESS: Final = "pdAddress"
"""Where the user says PD is: by annotation, or in ``br.options``; no field of the spec."""
_BASE: Final = "pitrFullBackupStorageProvider"
_STORAGE: Final = (
    "s3.provider",
    "s3.endpoint",
    "s3.bucket",
    "s3.prefix",
    "s3.path",
    "gcs.bucket",
    "gcs.prefix",
    "gcs.path",
    "azblob.storageAccount",
    "azblob.container",
    "azblob.prefix",
    "azblob.path",
    "local.volume",
    "local.volumeMount.mountPath",
    "local.volumeMount.subPath",
    "local.prefix",
)
_PLACES: Final = frozenset({"s3.bucket", "s3.prefix", "gcs.bucket", "gcs.prefix", "azblob.container", "azblob.prefix"})
"""Fields that only together say where something lies: ``b/a`` + ``c`` is ``b`` + ``a/c``."""
_DATABASES: Final = ("from.host", "from.port", "to.host", "to.port")
FIELDS: Final = (
    "backupMode",
    "restoreMode",
    "mode",
    "br.cluster",
    "br.clusterNamespace",
    *_DATABASES,
    *_STORAGE,
    *(f"{_BASE}.{field}" for field in _STORAGE),
    "pitrRestoredTs",
    "logRestoreStartTs",
    "startTs",
    "endTs",
    "shardCount",
)
"""Every field that is recorded, whatever the kind: no two kinds use one name for two things."""
_PARTS: Final = {field: tuple(field.split(".")) for field in FIELDS}
_SECTIONS: Final = (
    ("br",),
    ("from",),
    ("to",),
    *((str(provider),) for provider in Provider),
    (_BASE,),
    *((_BASE, str(provider)) for provider in Provider),
)
"""Objects of a spec that are as a whole absent where nothing of them was recorded."""
_ENDPOINTS: Final = ("s3.endpoint", f"{_BASE}.s3.endpoint")
_PD_FLAGS: Final = ("--pd", "-u")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that was edited since the start; empty text where it was, or is, not set."""

    field: str
    recorded: str
    now: str

    def __str__(self) -> str:
        """For messages."""
        name = f"the address of PD (annotation {names.PD_ADDR_ANNOTATION}, or --pd in spec.br.options)"
        shown = name if self.field == PD_ADDRESS else f"spec.{self.field}"
        return f"{shown} was {_quoted(self.recorded)} at the start and is {_quoted(self.now)} now"


def _quoted(text: str) -> str:
    return repr(text) if text else "not set"


def pd_address(spec: Mapping[str, Any], annotations: Mapping[str, Any]) -> str:
    """Where the user says PD is; empty when the cluster's object or its name has to tell. ``br.options`` win.

    >>> pd_address({"br": {"options": ["--pd", "a:2379"]}}, {})
    'a:2379'
    """
    if given := (spec.get("br") or {}).get("options"):
        for option, following in pairwise([*map(str, given), ""]):
            flag, equals, value = option.partition("=")
            if flag in _PD_FLAGS:
                return value if equals else following
    return str(annotations.get(names.PD_ADDR_ANNOTATION) or "")


def record(spec: Mapping[str, Any], *, namespace: str, annotations: Mapping[str, Any]) -> dict[str, str]:
    """What is to be recorded of *spec* at the start. *namespace* is the CR's own."""
    found: dict[str, str] = {}
    _collect(spec, _TREE, found)
    for field, (section, value) in _DEFAULTS.items():
        if spec.get(section):
            found.setdefault(field, value)
    if (spec.get("br") or {}).get("cluster"):
        found.setdefault("br.clusterNamespace", namespace)
    _hide_users(found)
    if found.get("backupMode") == "log":
        # A log backup never asks a database, so its address may be edited.
        found = {field: value for field, value in found.items() if field not in _DATABASES}
    if address := pd_address(spec, annotations):
        found[PD_ADDRESS] = address
    return found


def _hide_users(found: dict[str, str]) -> None:
    for field in _ENDPOINTS:
        if "@" in found.get(field, ""):
            found[field] = without_user(found[field])


def _collect(values: Mapping[str, Any], tree: Mapping[str, Any], found: dict[str, str]) -> None:
    """Add the text of every field of *tree* that is set in *values*; a port of 0 is none. Every sync comes here, so each key is
    looked at once."""
    for key, value in values.items():
        below = tree.get(key)
        if below is None or not value:
            continue
        if type(below) is str:
            found[below] = value if type(value) is str else _text(below, value)
        elif isinstance(value, dict):
            _collect(value, below, found)


_DEFAULTS: Final = {"from.port": ("from", "4000"), "to.port": ("to", "4000")}


def _get(spec: Mapping[str, Any], parts: tuple[str, ...]) -> Any:
    value: Any = spec
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            return None
    return value


def _text(field: str, value: Any) -> str:
    if field.endswith("local.volume") and isinstance(value, Mapping):
        # Its name only ties it to the mount.
        return json.dumps({key: item for key, item in value.items() if key != "name"}, sort_keys=True, separators=(",", ":"))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def changes(
    spec: Mapping[str, Any], recorded: Recorded, *, namespace: str, annotations: Mapping[str, Any], now: Recorded | None = None
) -> list[Change]:
    """What was edited since *recorded*, sorted by field; another way to write the same is no change."""
    current = record(spec, namespace=namespace, annotations=annotations) if now is None else now
    if current == recorded:
        return []
    found = [
        Change(field=field, recorded=recorded.get(field, ""), now=current.get(field, ""))
        for field in sorted({*recorded, *current})
        if not _same(field, recorded.get(field, ""), current.get(field, ""))
    ]
    moved = [change for change in found if change.field.removeprefix(f"{_BASE}.") in _PLACES]
    if moved and _urls(spec) == _urls(apply(spec, recorded)):
        found = [change for change in found if change not in moved]
    return found


def _same(field: str, before: str, now: str) -> bool:
    if field == PD_ADDRESS and before and now:
        # Members come and go; while one stays it is the same cluster.
        return bool({part.strip() for part in before.split(",")} & {part.strip() for part in now.split(",")})
    meaning = _MEANING.get(field.rpartition(".")[2], str)
    return bool(meaning(before) == meaning(now))


_MEANING: Final[Mapping[str, Callable[[str], Any]]] = {
    "backupMode": lambda text: text or "snapshot",
    "restoreMode": lambda text: text or "snapshot",
    "endpoint": lambda text: without_user(text).rstrip("/"),
    "prefix": lambda text: [part for part in text.split("/") if part],
    "mountPath": lambda text: text.rstrip("/"),
}
"""What counts of a field's text."""


def _urls(spec: Mapping[str, Any]) -> list[str]:
    """Where storage and base lie. A place that cannot be read is like no other."""
    found = []
    for holder in (spec, spec.get(_BASE) or {}):
        try:
            found.append(location_of(holder).url if provider_of(holder) else "")
        except PathError as error:
            found.append(str(error))
    return found


def apply(spec: Mapping[str, Any], recorded: Recorded) -> dict[str, Any]:
    """*spec* with the fields that were recorded as they were recorded; *spec* itself stays as it is."""
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    log = recorded.get("backupMode") == "log"
    for section in _SECTIONS:
        prefix = ".".join(section) + "."
        if not any(field.startswith(prefix) for field in recorded) and not (log and section[0] in {"from", "to"}):
            _remove(changed, section)
    for field, parts in _PARTS.items():
        if log and field in _DATABASES:
            continue
        value = recorded.get(field)
        if value is None:
            _remove(changed, parts)
        else:
            _set(changed, parts, _value(field, value, _get(changed, parts)))
    for holder in (changed, changed.get(_BASE)):
        if isinstance(holder, dict):
            _name_volume(holder)
    if isinstance(br := changed.get("br"), dict) and pd_address(changed, {}) not in ("", recorded.get(PD_ADDRESS, "")):
        br["options"] = list(_without_pd([str(option) for option in br["options"]]))
    return changed


def apply_annotations(annotations: Mapping[str, Any], recorded: Recorded) -> dict[str, Any]:
    """*annotations* with the address of PD as it was recorded."""
    kept = {name: value for name, value in annotations.items() if name != names.PD_ADDR_ANNOTATION}
    return kept | ({names.PD_ADDR_ANNOTATION: recorded[PD_ADDRESS]} if recorded.get(PD_ADDRESS) else {})


_TYPED: Final = frozenset({"from.port", "to.port", "shardCount"})
"""Whole numbers."""


def _value(field: str, text: str, now: Any) -> Any:
    if field.endswith("local.volume"):
        return {**json.loads(text), **({"name": now["name"]} if isinstance(now, Mapping) and now.get("name") else {})}
    if field in _TYPED:
        return int(text)
    return text


def _set(spec: dict[str, Any], parts: tuple[str, ...], value: Any) -> None:
    *folders, last = parts
    for part in folders:
        inner = spec.get(part)
        spec[part] = inner = inner if isinstance(inner, dict) else {}
        spec = inner
    spec[last] = value


def _field_tree() -> dict[str, Any]:
    """The path of every field, nested as the field is in a spec: ``{"mode": "mode", "s3": {"bucket": "s3.bucket", ...}}``."""
    tree: dict[str, Any] = {}
    for field, parts in _PARTS.items():
        _set(tree, parts, field)
    return tree


_TREE: Final = _field_tree()


def _remove(spec: dict[str, Any], parts: tuple[str, ...]) -> None:
    *folders, last = parts
    inner: Any = spec
    for part in folders:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner.pop(last, None)


def _name_volume(holder: dict[str, Any]) -> None:
    """Volume and mount of a local storage that the spec no longer has need one name."""
    local = holder.get("local")
    if not isinstance(local, dict) or "volume" not in local or "volumeMount" not in local:
        return
    name = local["volume"].get("name") or local["volumeMount"].get("name") or "recorded"
    local["volume"]["name"] = local["volumeMount"]["name"] = name


def _without_pd(options: list[str]) -> Iterator[str]:
    skip = False
    for option in options:
        flag, equals, _ = option.partition("=")
        if not skip and flag not in _PD_FLAGS:
            yield option
        skip = not skip and flag in _PD_FLAGS and not equals


def with_place(recorded: Recorded, spec: Mapping[str, Any], url: str, *, folder: str = "") -> dict[str, str]:
    """*recorded* with the place that *url* names, as ``status.backupPath`` has it: all that a CR of an earlier version, or of
    TiDB Operator, knows of its start. *folder* is what an export appends. What cannot be read changes nothing."""
    mount = str(_get(spec, ("local", "volumeMount", "mountPath")) or "")
    try:
        place = Location.parse(url, mount_path=mount)
    except PathError:
        return dict(recorded)
    prefix = place.prefix
    if folder:
        if not f"/{prefix}".endswith(f"/{folder}"):
            return dict(recorded)
        prefix = prefix[: -len(folder)].strip("/")
    try:
        if location_of(spec).url == Location(provider=place.provider, bucket=place.bucket, prefix=prefix).url:
            return dict(recorded)
    except PathError:
        pass
    provider = str(place.provider)
    bucket = {"azblob": "azblob.container", "local": ""}.get(provider, f"{provider}.bucket")
    others = tuple(f"{other}." for other in Provider if other is not place.provider)
    kept = {field: value for field, value in recorded.items() if not field.startswith(others)}
    told = {bucket: place.bucket} if bucket else {}
    kept = {field: value for field, value in kept.items() if field != f"{provider}.prefix"}
    return kept | told | ({f"{provider}.prefix": prefix} if prefix else {})


def readable(values: object) -> dict[str, str]:
    """What of *values*, a status that anybody may have edited, is a record. The rest counts as not recorded."""
    found = {field: value for field, value in values.items() if isinstance(value, str)} if isinstance(values, Mapping) else {}
    for field in [field for field in found if field in _TYPED or field.endswith("local.volume")]:
        try:
            _value(field, found[field], None)
        except (ValueError, TypeError):
            del found[field]
    _hide_users(found)  # one of an earlier release
    return found


def to_text(recorded: Recorded) -> str:
    """For the environment of a Job."""
    return json.dumps(dict(recorded), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_text(text: str) -> dict[str, str]:
    """Read :func:`to_text` back. Raises ValueError."""
    return msgspec.json.decode(text, type=dict[str, str])
