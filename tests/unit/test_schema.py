"""The schemas that the API server publishes."""

from __future__ import annotations

import json
from typing import Any

from shoal.api.objects import KINDS
from shoal.api.schema import REF, components


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def test_every_kind_has_a_schema_and_every_reference_leads_somewhere() -> None:
    refs, schemas = components()
    assert refs.keys() == KINDS.keys()
    assert references(refs) | references(schemas) <= {REF + name for name in schemas}
    assert json.dumps(schemas)


def test_a_schema_says_what_is_required_and_what_values_there_are() -> None:
    _, schemas = components()
    assert schemas["Service"]["required"] == ["kind", "metadata", "spec"]
    assert schemas["ServiceSpec"]["required"] == ["image"]
    assert schemas["ServiceSpec"]["properties"]["mode"]["enum"] == ["replicated", "global", "job", "global-job"]
    assert schemas["Update"]["properties"]["monitor"]["default"] == "5s"
    assert schemas["EndpointSettings"]["properties"].keys() == {"mode"}
