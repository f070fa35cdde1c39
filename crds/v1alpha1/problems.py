"""What is wrong with a spec, field by field, in words that say what to do.

This is the part that needs the spec alone: types, names, enums, texts, and the rules between fields that the CRDs state too.
What needs the cluster or is a judgement (a missing bucket, an unknown zone) is the hooks' to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from crds.v1alpha1.backup import BackupSpec
from crds.v1alpha1.backup_schedule import BackupScheduleSpec
from crds.v1alpha1.common import RULES_BROKEN, Model
from crds.v1alpha1.compact_backup import CompactBackupSpec
from crds.v1alpha1.restore import RestoreSpec

SPECS: Final[Mapping[str, type[Model]]] = {
    "Backup": BackupSpec,
    "Restore": RestoreSpec,
    "BackupSchedule": BackupScheduleSpec,
    "CompactBackup": CompactBackupSpec,
}
_TYPES: Final = {
    "string_type": "must be a text; put it in quotes",
    "int_type": "must be a whole number; set one without quotes",
    "int_from_float": "must be a whole number; set one without a fraction",
    "float_type": "must be a number; set one without quotes",
    "bool_type": "must be true or false; set one without quotes",
    "list_type": "must be a list; set it as one",
    "dict_type": "must be an object; set its fields",
    "model_type": "must be an object; set its fields",
    "model_attributes_type": "must be an object; set its fields",
}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SpecProblem:
    """One thing wrong: *field* is its path (``spec.s3.bucket``), *rule* says what holds there and what to set."""

    field: str
    rule: str

    def __str__(self) -> str:
        """One line for a condition or a terminal."""
        return f"{self.field}: {self.rule}"


def spec_problems(kind: str, spec: Mapping[str, Any]) -> list[SpecProblem]:
    """All problems of *spec*, the ``spec`` of a resource of *kind*, sorted by field; empty when it can be used.

    >>> spec_problems("Backup", {"br": {"cluster": "c"}, "s3": {"provider": "aws", "bucket": "b"}})
    []
    >>> print(*spec_problems("Backup", {"br": {"cluster": "c"}, "s3": {"provider": "aws", "buckit": "b"}}))
    spec.s3.buckit: unknown field; remove it, or set bucket if that was meant
    """
    model = SPECS[kind]
    try:
        model.model_validate(spec)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return sorted({problem for detail in details for problem in _explained(model, detail)})
    return []


def _explained(model: type[Model], detail: ErrorDetails) -> list[SpecProblem]:
    field = _path(detail["loc"])
    if detail["type"] == RULES_BROKEN:
        broken = detail["ctx"]["broken"]
        return [SpecProblem(field=f"{field}.{rule.field}" if rule.field else field, rule=rule.message) for rule in broken]
    return [SpecProblem(field=field, rule=_rule(model, detail))]


def _path(location: Sequence[int | str]) -> str:
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _rule(model: type[Model], detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is required; set it"
    if kind == "extra_forbidden":
        return _unknown(model, detail["loc"])
    if kind == "literal_error":
        return f"must be one of {context['expected']}; set one of these"
    if kind in {"greater_than_equal", "less_than_equal"}:
        sign, bound = ("at least", context.get("ge")) if kind == "greater_than_equal" else ("at most", context.get("le"))
        return f"must be {sign} {bound}; set a number in range"
    if kind == "string_too_short":
        return "must not be empty; set it"
    return _TYPES.get(kind) or detail["msg"]


def _unknown(model: type[Model], location: Sequence[int | str]) -> str:
    """Name the field that was probably meant."""
    known = [field.alias or name for name, field in _model_at(model, location[:-1]).model_fields.items()]
    close = get_close_matches(str(location[-1]), known, n=1)
    return f"unknown field; remove it, or set {close[0]} if that was meant" if close else "unknown field; remove it"


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """The model of the part at *location* in *model*."""
    for part in location:
        if isinstance(part, int):
            continue
        field = next((field for name, field in model.model_fields.items() if part in {field.alias or name, name}), None)
        inner = field and _model_in(field.annotation)
        if not inner:
            break
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``Model | None`` or ``list[Model]``, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _model_in(part))), None)
