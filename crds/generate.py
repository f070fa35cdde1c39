"""Writes the CRDs from the models: ``python -m crds.generate``; with ``--check`` only says whether they are current.

A model's JSON schema becomes what Kubernetes calls structural: nothing referenced, no alternatives, Kubernetes' own types in
full (from ``v1alpha1/core_v1.json``), rules between fields as CEL. A default that is not empty becomes the API server's.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from crds import yaml_text
from crds.contract import names
from crds.v1alpha1 import KINDS
from crds.v1alpha1.common import CORE, Model, Resource, Rule

FOLDER: Final = Path(__file__).resolve().parent
_HEADER: Final = "# Generated from crds/v1alpha1 by 'python -m crds.generate'. Do not edit.\n"
_KEPT: Final = (
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
    "nullable",
)
Schema = Mapping[str, Any]


def crd(model: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    kind = model.__name__
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(model, index) for index in range(len(model.COLUMNS))],
        "schema": {"openAPIV3Schema": openapi_schema(model)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": model.PLURAL,
                "singular": kind.lower(),
                "shortNames": [model.SHORT],
            },
            "versions": [version],
        },
    }


def _column(model: type[Resource], index: int) -> dict[str, Any]:
    column = model.COLUMNS[index]
    entry = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return entry | ({"priority": column.priority} if column.priority else {})


def openapi_schema(model: type[Resource]) -> dict[str, Any]:
    """The structural schema of *model*."""
    document = model.model_json_schema(by_alias=True)
    result = _structural(document, document.get("$defs", {}), _rules_of(model))
    result["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    result["required"] = ["metadata", "spec"]
    return result


def _structural(schema: Schema, parts: Mapping[str, Schema], rules: Mapping[str, tuple[Rule, ...]]) -> dict[str, Any]:
    schema = _plain(schema, parts)
    if CORE in schema:
        return _described(schema) | _core_types()[schema[CORE]]
    result = _described(schema) | {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if (default := schema.get("default")) not in (None, "", False, []):
        result["default"] = default
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            result[key] = _structural(schema[key], parts, rules)
    if "properties" in schema:
        if required := schema.get("required"):
            result["required"] = required
        result["properties"] = {name: _structural(part, parts, rules) for name, part in schema["properties"].items()}
        if validations := [_validation(rule) for rule in rules.get(schema["title"], ())]:
            result["x-kubernetes-validations"] = validations
    return result


def _plain(schema: Schema, parts: Mapping[str, Schema]) -> Schema:
    """*schema* without a reference and without 'or null': the API server drops a null by itself."""
    while "$ref" in schema or "anyOf" in schema:
        outer = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf"}}
        if "$ref" in schema:
            inner = parts[schema["$ref"].rsplit("/", 1)[-1]]
        else:
            (inner,) = (part for part in schema["anyOf"] if part != {"type": "null"})
        schema = {**inner, **outer, "title": inner.get("title", outer.get("title"))}
    return schema


def _described(schema: Schema) -> dict[str, Any]:
    text = " ".join(str(schema.get("description", "")).replace("``", "").split())
    return {"description": text} if text else {}


def _validation(rule: Rule) -> dict[str, str]:
    where = {"fieldPath": f".{rule.field}"} if rule.field else {}
    return {"rule": rule.cel, "message": rule.message} | where


def _rules_of(model: type[BaseModel]) -> dict[str, tuple[Rule, ...]]:
    """The rules of every model below *model*, by the model's name, which is the title of its schema."""
    found: dict[str, tuple[Rule, ...]] = {}
    waiting: list[Any] = [model]
    while waiting:
        part = waiting.pop()
        if isinstance(part, type) and issubclass(part, Model):
            if part.__name__ not in found:
                found[part.__name__] = tuple(part.rules())
                waiting += [field.annotation for field in part.model_fields.values()]
        else:
            waiting += getattr(part, "__args__", ())
    return found


@cache
def _core_types() -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = json.loads((FOLDER / names.VERSION / "core_v1.json").read_text())
    return types


def files() -> dict[Path, str]:
    """Every generated file with its text."""
    return {FOLDER / f"{model.PLURAL}.yaml": _HEADER + yaml_text.dump(crd(model)) for model in KINDS.values()}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or compare them; the exit code is 1 when they differ."""
    parser = argparse.ArgumentParser(prog="python -m crds.generate", description="Generate the CRDs from the models.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is not current")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(files()[path])
        sys.stdout.write(f"{'not current' if check else 'written'}: {path.name}\n")
    if check and stale:
        sys.stdout.write("run: python -m crds.generate\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
