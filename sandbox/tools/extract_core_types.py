"""Writes the schemas of the Kubernetes types that our CRDs contain, as a kube-apiserver publishes them.

    kubectl get --raw /openapi/v3/api/v1 | python -m sandbox.tools.extract_core_types > crds/v1alpha1/core_v1.json

Done once for each Kubernetes release that is worth it; the result is committed, so that generating CRDs needs no cluster.
What a CRD cannot hold or does not need is left out: references (inlined), descriptions and defaults. Without descriptions a
whole CRD fits the annotation of ``kubectl apply``.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from crds.contract import sizes

CORE: Final = "io.k8s.api.core.v1."
TYPES: Final = (
    "Affinity",
    "EnvVar",
    "LocalObjectReference",
    "PodSecurityContext",
    "ResourceRequirements",
    "Toleration",
    "Volume",
    "VolumeMount",
)
_KEPT: Final = ("type", "format", "enum", "required", "pattern", "minimum", "maximum")
_INT_OR_STRING: Final = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
_TEXTS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
_SPECIAL: Final[Mapping[str, dict[str, Any]]] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {**_INT_OR_STRING, "pattern": sizes.PATTERN},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _INT_OR_STRING,
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": {"type": "string", "format": "date-time"},
    # Of the metadata of a volume claim's template, Kubernetes uses these two.
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {
        "type": "object",
        "properties": {"annotations": _TEXTS, "labels": _TEXTS},
    },
}


def structural(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """*schema* with every reference into *schemas* inlined, and only what a structural schema needs."""
    reference = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf", ()) if "$ref" in part), None)
    if reference:
        name = reference.rsplit("/", 1)[-1]
        return dict(_SPECIAL[name]) if name in _SPECIAL else structural(schemas[name], schemas)
    result = {key: schema[key] for key in _KEPT if key in schema}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            result[key] = structural(schema[key], schemas)
    if "properties" in schema:
        result["properties"] = {name: structural(part, schemas) for name, part in sorted(schema["properties"].items())}
    return result


def extract(openapi: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of :data:`TYPES` in the document *openapi*."""
    schemas = openapi["components"]["schemas"]
    return {name: structural(schemas[CORE + name], schemas) for name in TYPES}


if __name__ == "__main__":
    json.dump(extract(json.load(sys.stdin)), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
