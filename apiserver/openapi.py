"""The native API described to machines, made from the object types and the routes. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from apiserver import kinds
from shoal.api import objects as o
from shoal.api.meta import API_VERSION
from shoal.api.schema import components


@lru_cache(maxsize=1)
def document() -> bytes:
    """Return the OpenAPI 3.1 document as JSON."""
    shown = [kind for plural, kind in sorted(kinds.KINDS.items()) if kind not in kinds.HIDDEN]
    _, schemas = components()
    paths: dict[str, Any] = {}
    for kind in shown:
        paths |= _paths_of(kind)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Shoal", "version": API_VERSION},
            "paths": {**paths, **_others()},
            "components": {"schemas": {**schemas, "Error": _ERROR, "Fault": _FAULT}},
        }
    )


_FAULT: dict[str, Any] = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "message": {"type": "string"}, "object": {"type": "string"}},
}

_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "message": {"type": "string"},
        "faults": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
    },
}


def _paths_of(kind: type[o.Object]) -> dict[str, Any]:
    one: dict[str, Any] = {"$ref": f"#/components/schemas/{kind.KIND}"}
    many = {
        "type": "object",
        "properties": {
            "kind": {"const": f"{kind.KIND}List"},
            "resourceVersion": {"type": "integer"},
            "continue": {"type": "string"},
            "items": {"type": "array", "items": one},
        },
    }
    writable = kind in kinds.WRITABLE
    collection: dict[str, Any] = {
        "get": _operation(
            f"List or watch {kind.PLURAL}", many, _query("labels", "fields", "limit", "continue", "watch", "since")
        )
    }
    single: dict[str, Any] = {"get": _operation(f"Read one {kind.KIND}", one, [_NAME])}
    if writable:
        dry = _query("dryRun")
        collection["post"] = _operation(f"Create a {kind.KIND}", one, dry, body=one, status="201")
        single["put"] = _operation(f"Replace a {kind.KIND}", one, [_NAME, *dry], body=one)
        single["patch"] = _operation(f"Merge into a {kind.KIND}", one, [_NAME, *dry], body={"type": "object"})
        single["delete"] = _operation(
            f"Delete a {kind.KIND}", one, [_NAME, *_query("resourceVersion", "force", "dryRun")]
        )
    return {f"/shoal/v1/{kind.PLURAL}": collection, f"/shoal/v1/{kind.PLURAL}/{{name}}": single}


_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _query(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]


def _operation(
    summary: str, answer: dict[str, Any], parameters: list[dict[str, Any]], *, body: dict[str, Any] | None = None,
    status: str = "200",
) -> dict[str, Any]:  # fmt: skip
    error = {"$ref": "#/components/schemas/Error"}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            status: {"description": "Done", "content": {"application/json": {"schema": answer}}},
            "default": {"description": "Not done", "content": {"application/json": {"schema": error}}},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _others() -> dict[str, Any]:
    anything: dict[str, Any] = {"type": "object"}
    name = [_NAME]
    tail = _query("follow", "tail", "since", "timestamps", "stdout", "stderr")
    return {
        "/shoal/v1/apply": {
            "post": _operation("Write several objects, if all are valid", anything, _query("dryRun"), body=anything)
        },
        "/shoal/v1/services/{name}/logs": {"get": _operation("Merged logs of a service", anything, [*name, *tail])},
        "/shoal/v1/services/{name}/rollout": {
            "post": _operation("Pause, resume, undo or restart a rollout", anything, name, body=anything)
        },
        "/shoal/v1/tasks/{name}/logs": {"get": _operation("Logs of a task", anything, [*name, *tail])},
        "/shoal/v1/doctor/network": {
            "get": _operation("What every node finds wrong with the network", anything, _query("networks"))
        },
        "/shoal/v1/top": {"get": _operation("CPU and memory per running task", anything, [])},
    }
