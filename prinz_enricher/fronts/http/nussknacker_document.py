"""The OpenAPI document of Nussknacker's stock enricher: an operation for each model, alias and default.

It holds what Nussknacker 1.18 and its parser take, and no more: 3.0.3, one answer with a schema, no enumerations, no
nulls. A long is a number without a format: as an integer, Nussknacker would decode it through a double. A path has the
digest of its signature, which Nussknacker keeps with a deployed scenario, so that rows of another one are refused. What
Nussknacker does not read (titles, descriptions, which inputs are required) is for `prinz-enricher nussknacker-config`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from prinz_enricher.batch.json_answers import write
from prinz_enricher.catalog import CatalogModel, CatalogVersion
from prinz_enricher.fronts.http.score_exchange import DIGEST
from prinz_enricher.signature import (
    Field,
    ListOf,
    MapOf,
    Origin,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    Tensor,
    Type,
    type_text,
)

_INT32: Final = {"type": "integer", "format": "int32", "minimum": -(1 << 31), "maximum": (1 << 31) - 1}
_SCALARS: Final[dict[str, dict[str, Any]]] = {
    ScalarKind.BOOLEAN: {"type": "boolean"},
    ScalarKind.INTEGER: _INT32,
    ScalarKind.LONG: {"type": "number"},
    ScalarKind.FLOAT: {"type": "number", "format": "float"},
    ScalarKind.DOUBLE: {"type": "number", "format": "double"},
    ScalarKind.STRING: {"type": "string"},
    ScalarKind.BINARY: {"type": "string", "format": "byte"},
    ScalarKind.DATETIME: {"type": "string", "format": "date-time"},
}
_DTYPES: Final = (
    (re.compile(r"bool"), ScalarKind.BOOLEAN),
    (re.compile(r"u?int(8|16)|int32"), ScalarKind.INTEGER),
    (re.compile(r"uint32|u?int64"), ScalarKind.LONG),
    (re.compile(r"float(16|32)"), ScalarKind.FLOAT),
    (re.compile(r"float64"), ScalarKind.DOUBLE),
    (re.compile(r"bytes"), ScalarKind.BINARY),
    (re.compile(r"datetime64.*"), ScalarKind.DATETIME),
)
_FAULTS: Final = {
    "409": {"description": "The model, alias or signature is no longer the one this document describes"},
    "422": {"description": "An input does not fit the signature"},
    "503": {"description": "Not ready now; Retry-After tells when"},
}
_SHORT: Final = 30
"""Characters of a type that has room in a title."""
_NOT_OF_ID: Final = re.compile(r"[^A-Za-z0-9_-]")


def schema_of(type: Type) -> dict[str, Any]:
    """Return the schema of a value."""
    match type:
        case Scalar(kind):
            return _SCALARS[kind]
        case ListOf(items):
            return {"type": "array", "items": schema_of(items)}
        case MapOf(values):
            return {"type": "object", "additionalProperties": schema_of(values)}
        case Record(fields):
            return _object(fields)
        case Tensor(dtype, shape):
            kind = next((kind for pattern, kind in _DTYPES if pattern.fullmatch(dtype)), ScalarKind.STRING)
            schema = _SCALARS[kind]
            for _ in shape[1:]:
                schema = {"type": "array", "items": schema}
            return schema
    return {}


def _object(fields: Iterable[Field]) -> dict[str, Any]:
    return {"type": "object", "properties": {field.name: schema_of(field.type) for field in fields}}


def _inputs(fields: Iterable[Field]) -> dict[str, Any]:
    """Return the schema of a row, with what a person who fills a form is to know."""
    properties: dict[str, Any] = {}
    required = []
    for field in fields:
        text = type_text(field.type)
        title = f"{field.name} ({text if len(text) <= _SHORT else text.partition('(')[0]})"
        hint = f"{text}, {'required' if field.required else 'optional'}"
        hint += f": {field.description}" if field.description else ""
        properties[field.name] = {"title": title, "description": hint, **schema_of(field.type)}
        required += [field.name] if field.required else []
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def write_document(
    models: Mapping[str, CatalogModel],
    default_version: Callable[[CatalogModel], CatalogVersion | None],
    may_score: Callable[[str], bool],
    *,
    secured: bool,
) -> bytes:
    """Return the document of some models, by name; the same bytes for the same models."""
    paths: dict[str, Any] = {}
    left_out: list[dict[str, str]] = []
    ids: set[str] = set()
    targets = [target for model in models.values() for target in _targets(model, default_version(model))]
    # Of two with the same id, that with an alias keeps it.
    for name, alias, version in sorted(targets, key=lambda one: (not one[1], one[0], one[1])):
        why = _why_not(version) if may_score(name) else "the caller has no right to score it"
        if why or version is None or version.signature is None:
            left_out.append({"model": name, "alias": alias, "reason": why})
            continue
        signature = version.signature
        place = "/".join(quote(part, safe="") for part in (name, alias, signature.digest[:DIGEST]) if part)
        id = _new_id(name, alias, ids)
        for kind, ending in (("score", ""), ("score-many", "-many")):
            operation = _operation(signature, many=bool(ending))
            paths[f"/nussknacker/v1/{kind}/{place}"] = {
                "post": {
                    "operationId": id + ending,
                    "summary": f"{name}, alias {alias}" if alias else f"{name}, its default version",
                    **operation,
                }
            }
    document: dict[str, Any] = {
        "openapi": "3.0.3",
        "info": {"title": "Models of prinz-enricher", "version": "1"},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "x-left-out": sorted(left_out, key=lambda one: (one["model"], one["alias"])),
    }
    if secured:
        document["security"] = [{"bearer": []}]
        scheme = {"type": "apiKey", "in": "header", "name": "Authorization"}
        document["components"] = {"securitySchemes": {"bearer": scheme}}
    return write(document).encode(errors="replace")


def _targets(model: CatalogModel, default: CatalogVersion | None) -> Iterator[tuple[str, str, CatalogVersion | None]]:
    yield model.name, "", default
    for alias, number in model.aliases.items():
        yield model.name, alias, model.by_number.get(number)


def _why_not(version: CatalogVersion | None) -> str:
    if version is None or not version.ready:
        return "there is no version that is ready"
    if version.signature is None:
        return f"its signature is not known: {version.fault}"
    return "it has no signature" if version.signature.origin is Origin.MISSING else ""


def _new_id(name: str, alias: str, ids: set[str]) -> str:
    text = "-".join(filter(None, ("score", name, alias)))
    id = _NOT_OF_ID.sub("_", text)
    if id != text or {id, f"{id}-many"} & ids:
        id = f"{id}-{hashlib.sha256(f'{name}/{alias}'.encode(errors='replace')).hexdigest()[:8]}"
    ids |= {id, f"{id}-many"}
    return id


def _operation(signature: Signature, *, many: bool) -> dict[str, Any]:
    inputs, outputs = _inputs(signature.inputs), _object(signature.outputs)
    outputs["properties"].setdefault("modelVersion", {"type": "string"})
    if many:
        inputs, outputs = ({"type": "array", "items": one} for one in (inputs, outputs))
    answer = {"description": "The scores", "content": {"application/json": {"schema": outputs}}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": inputs}}},
        "responses": {"200": answer, **_FAULTS},
    }
