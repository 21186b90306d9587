"""What a command's schema marks secret (`writeOnly`) stays masked for everybody, and survives an operator's edit of the rest."""

from __future__ import annotations

import functools
from typing import Any, cast

from pipelines.command import Command, Handler

MASK = "********"


def mask(payload: Any, handler: Handler | None) -> Any:
    """The payload as it may be shown. Of a command that nobody here knows nothing is: it cannot be told what is secret."""
    if handler is None or payload is None:
        return None
    schema = _schema(handler.command)
    return _mask(payload, schema, schema.get("$defs", {}))


@functools.cache
def _schema(command: type[Command]) -> dict[str, Any]:
    """Made once: it costs a hundred times what masking does."""
    return command.model_json_schema()


def restore(edited: Any, stored: Any) -> Any:
    """An edited payload in which whatever was sent back masked is as it was."""
    if edited == MASK:
        return stored
    if isinstance(edited, dict) and isinstance(stored, dict):
        former = cast("dict[str, Any]", stored)
        return {name: restore(value, former.get(name)) for name, value in cast("dict[str, Any]", edited).items()}
    if isinstance(edited, list) and isinstance(stored, list):
        former_items = cast("list[Any]", stored)
        items = cast("list[Any]", edited)
        return [restore(item, former_items[n]) if n < len(former_items) else item for n, item in enumerate(items)]
    return cast("Any", edited)


def _mask(value: Any, schema: Any, definitions: dict[str, Any]) -> Any:
    if not isinstance(schema, dict):
        return value
    known = cast("dict[str, Any]", schema)
    if known.get("writeOnly"):
        return MASK
    if "$ref" in known:
        return _mask(value, definitions.get(known["$ref"].rpartition("/")[2]), definitions)
    for choice in (*known.get("anyOf", ()), *known.get("oneOf", ()), *known.get("allOf", ())):
        value = _mask(value, choice, definitions)
    if isinstance(value, dict):
        properties: dict[str, Any] = known.get("properties", {})
        others: Any = known.get("additionalProperties")
        members = cast("dict[str, Any]", value)
        return {name: _mask(member, properties.get(name, others), definitions) for name, member in members.items()}
    if isinstance(value, list):
        return [_mask(item, known.get("items"), definitions) for item in cast("list[Any]", value)]
    return value
