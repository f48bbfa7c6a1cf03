"""JSON schemas of all kinds, from the types themselves. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from shoal.api.meta import API_VERSION
from shoal.api.objects import KINDS, Object
from shoal.api.units import Bytes, Cpus, Duration

REF: Final = "#/components/schemas/{name}"

_UNITS: Final[dict[type, dict[str, Any]]] = {
    Duration: {
        "type": "string",
        "pattern": r"^-?(0|(\d+(\.\d+)?(h|ms|us|µs|ns|m|s))+)$",
        "examples": ["5s", "1m30s", "500ms"],
        "description": "A span of time with its units.",
    },
    Bytes: {
        "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*[kKmMgGtTpP]?([iI]?[bB])?$"}],
        "examples": ["512M", 1048576],
        "description": "A size in bytes; units are powers of 1024.",
    },
    Cpus: {
        "anyOf": [{"type": "number"}, {"type": "string"}],
        "examples": [0.5, 2],
        "description": "A number of processors.",
    },
}


def schema_hook(kind: type) -> dict[str, Any]:
    """Describe the types msgspec does not know."""
    return dict(_UNITS[kind])


def components() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return kind → reference to its schema, and all schemas by name, as OpenAPI's components want them."""
    kinds: list[type[Object]] = list(KINDS.values())
    refs, schemas = msgspec.json.schema_components(kinds, schema_hook=schema_hook, ref_template=REF)
    for kind in kinds:
        properties = schemas[kind.__name__]["properties"]
        properties["apiVersion"] = {"const": API_VERSION, "default": API_VERSION}
    return {kind.KIND: ref for kind, ref in zip(kinds, refs, strict=True)}, schemas
