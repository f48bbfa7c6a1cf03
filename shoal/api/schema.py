"""JSON schemas of all kinds, from the types themselves. Pure.

msgspec's own generator cannot spell defaults that are durations or sizes, so this walks its type information.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import NODEFAULT, inspect

from shoal.api.codec import to_builtins
from shoal.api.meta import API_VERSION
from shoal.api.objects import KINDS
from shoal.api.units import Bytes, Cpus, Duration

Schema = dict[str, Any]

REF: Final = "#/components/schemas/"

_UNITS: Final[dict[type, Schema]] = {
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

_PLAIN: Final[dict[type[inspect.Type], Schema]] = {
    inspect.StrType: {"type": "string"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
}


def components() -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return kind → reference to its schema, and all schemas by name, as OpenAPI's `components.schemas` wants them."""
    schemas: dict[str, Schema] = {}
    refs = {name: _schema(inspect.type_info(kind), schemas) for name, kind in KINDS.items()}
    return refs, schemas


def _schema(kind: inspect.Type, schemas: dict[str, Schema]) -> Schema:
    match kind:
        case inspect.StructType():
            name = _name(kind.cls)
            if name not in schemas:
                schemas[name] = {}
                schemas[name].update(_struct(kind, schemas))
            return {"$ref": REF + name}
        case inspect.UnionType():
            options = [_schema(one, schemas) for one in kind.types if not isinstance(one, inspect.NoneType)]
            return options[0] if len(options) == 1 else {"anyOf": options}
        case inspect.VarTupleType():
            return {"type": "array", "items": _schema(kind.item_type, schemas)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _schema(kind.value_type, schemas)}
        case inspect.EnumType():
            return {"type": "string", "enum": [str(member.value) for member in kind.cls]}
        case inspect.CustomType():
            return dict(_UNITS[kind.cls])
    return dict(_PLAIN[type(kind)])


def _name(cls: type) -> str:
    """A kind's schema has its kind's name, a part's its class's; the one part named as a kind is, another."""
    kind: str = getattr(cls, "KIND", "")
    return kind or ("EndpointSettings" if cls.__name__ in KINDS else cls.__name__)


def _description(cls: type) -> str:
    return (cls.__dict__.get("__doc__") or "").strip()


def _struct(kind: inspect.StructType, schemas: dict[str, Schema]) -> Schema:
    properties: dict[str, Schema] = {}
    if kind.tag_field is not None:
        properties[kind.tag_field] = {"const": kind.tag}
    properties.update(_properties(kind, schemas))
    if "apiVersion" in properties:
        properties["apiVersion"] = {"const": API_VERSION}
    required = [field.encode_name for field in kind.fields if field.required]
    if kind.tag_field is not None:
        required.insert(0, kind.tag_field)
    return {
        "type": "object",
        "title": _name(kind.cls),
        **({"description": description} if (description := _description(kind.cls)) else {}),
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _properties(kind: inspect.StructType, schemas: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    for field in kind.fields:
        schema = _schema(field.type, schemas)
        if field.default not in (NODEFAULT, None, "", (), 0, False):
            schema = {**schema, "default": to_builtins(field.default)}
        yield field.encode_name, schema
