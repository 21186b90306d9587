"""Whether one JSON Schema takes all that another does: what decides if a command's schema may change in place (decision 0018).

It knows the keywords that pydantic writes, and proves: what it cannot prove is a gap. Any other keyword must be the same on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

Schema = Any

#: They say something of a value and nothing about which values there are.
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator", "$defs", "$comment"}
)


@dataclass(frozen=True, slots=True)
class Gap:
    """At `path`, the schema that should be the wider one may refuse what the other takes, because of `keyword`."""

    path: str
    keyword: str
    wide: Any = None
    narrow: Any = None


def _at_most(wide: Any, narrow: Any) -> bool:
    return narrow is not None and wide <= narrow


def _at_least(wide: Any, narrow: Any) -> bool:
    return narrow is not None and wide >= narrow


def _types(value: Any) -> set[str]:
    names = {value} if isinstance(value, str) else set(cast("list[str]", value))
    return names | ({"integer"} if "number" in names else set[str]())


#: By keyword of the wider schema: whether the other one's value for it (None: it has none) says that nothing more is refused.
RULES: Mapping[str, Callable[[Any, Any], bool]] = {
    "type": lambda wide, narrow: narrow is not None and _types(narrow) <= _types(wide),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), _at_most),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), _at_least),
    "multipleOf": lambda wide, narrow: isinstance(wide, int) and isinstance(narrow, int) and narrow % wide == 0,
    "uniqueItems": lambda wide, narrow: not wide or narrow is True,
}
#: These are looked into.
STRUCTURE = frozenset({"properties", "required", "additionalProperties", "items", "prefixItems", "anyOf", "oneOf", "enum", "const", "$ref"})


def gaps_for_callers(old: Schema, new: Schema) -> list[Gap]:
    """Where a payload that `old` takes may not be one any more: the new schema should be the wider one. None: surely there is none."""
    return list(_Walk(new, old, old_is_wide=False).look(new, old, ""))


def gaps_for_readers(old: Schema, new: Schema) -> list[Gap]:
    """Where a result may not be what `old` promised: here, the old one should be the wider one."""
    return list(_Walk(old, new, old_is_wide=True).look(old, new, ""))


class _Walk:
    def __init__(self, wide: Schema, narrow: Schema, *, old_is_wide: bool) -> None:
        self._old_is_wide = old_is_wide
        self._wide = cast("dict[str, Any]", wide).get("$defs", {})
        self._narrow = cast("dict[str, Any]", narrow).get("$defs", {})
        self._under_way: set[tuple[bytes, bytes]] = set()

    def look(self, wide: Schema, narrow: Schema, path: str) -> Iterator[Gap]:
        pair = (orjson.dumps(wide), orjson.dumps(narrow))
        if pair in self._under_way or narrow is False:  # a schema that holds itself: what is being proved may be relied upon
            return
        self._under_way.add(pair)
        yield from self._compare(_resolve(wide, self._wide), _resolve(narrow, self._narrow), path)
        self._under_way.discard(pair)

    def _compare(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Gap]:
        branches = narrow.get("anyOf") or narrow.get("oneOf")
        if branches:
            for branch in branches:
                yield from self.look(wide, branch, path)
            return
        if "anyOf" in wide or ("oneOf" in wide and "discriminator" in wide):  # whose branches have nothing in common
            name = "anyOf" if "anyOf" in wide else "oneOf"
            tried = [list(self.look(branch, narrow, path)) for branch in wide[name]]
            yield from min(tried, key=len)
            wide = {keyword: value for keyword, value in wide.items() if keyword != name}
        yield from self._values(wide, narrow, path)
        yield from self._properties(wide, narrow, path)
        yield from self._items(wide, narrow, path)
        for keyword in wide.keys() - ANNOTATIONS - (STRUCTURE - {"oneOf"}):
            rule = RULES.get(keyword, self._same)
            if not rule(wide[keyword], narrow.get(keyword)):
                yield Gap(path, keyword, wide[keyword], narrow.get(keyword))

    def _same(self, wide: Any, narrow: Any) -> bool:
        return wide == narrow and (b'"$ref"' not in orjson.dumps(wide) or self._wide == self._narrow)

    def _values(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Gap]:
        mine, theirs = _listed(wide), _listed(narrow)
        if mine is not None and (theirs is None or not theirs <= mine):
            yield Gap(path, "enum", _shown(mine), _shown(theirs))

    def _properties(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Gap]:
        mine, theirs = wide.get("properties", {}), narrow.get("properties", {})
        others, their_others = wide.get("additionalProperties", True), narrow.get("additionalProperties", True)
        gone = (mine.keys() - theirs.keys()) if self._old_is_wide else (theirs.keys() - mine.keys() if "properties" in wide else set[str]())
        for name in sorted(mine.keys() | theirs.keys()):
            at = f"{path}/{name}"
            if name in gone:
                yield Gap(at, "gone")
            elif name not in mine and others is False:
                yield Gap(at, "properties")
            elif name in theirs or their_others is not False:
                yield from self.look(mine.get(name, others), theirs.get(name, their_others), at)
        for name in sorted(set(wide.get("required", ())) - set(narrow.get("required", ())) - gone):
            yield Gap(f"{path}/{name}", "required")
        if others is False and their_others is not False and "object" in _types(narrow.get("type", "object")):
            yield Gap(path, "additionalProperties", others, their_others)
        elif others is not False:
            yield from self.look(others, their_others, f"{path}/*")

    def _items(self, wide: dict[str, Any], narrow: dict[str, Any], path: str) -> Iterator[Gap]:
        mine, theirs = wide.get("prefixItems", []), narrow.get("prefixItems", [])
        if len(mine) != len(theirs):
            yield Gap(path, "prefixItems", len(mine), len(theirs))
        for number, (first, second) in enumerate(zip(mine, theirs, strict=False)):
            yield from self.look(first, second, f"{path}/{number}")
        if "items" in wide:
            yield from self.look(wide["items"], narrow.get("items", True), f"{path}/*")


def _resolve(schema: Schema, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """As an object, without a reference at its top."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    own = cast("dict[str, Any]", schema)
    if "$ref" not in own:
        return own
    target = _resolve(definitions[own["$ref"].removeprefix("#/$defs/")], definitions)
    beside = {keyword: value for keyword, value in own.items() if keyword not in ANNOTATIONS | {"$ref"}}
    return {"allOf": [target, beside]} if beside else target


def _listed(schema: dict[str, Any]) -> set[bytes] | None:
    """The values of `enum` or `const`, as JSON: there, 1 is not true."""
    values: Iterable[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else {orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in values}


def _shown(values: set[bytes] | None) -> Any:
    return None if values is None else sorted((orjson.loads(value) for value in values), key=repr)
