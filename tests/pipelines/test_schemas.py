"""What may change in place, and what needs a next version."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from pipelines import schemas
from pipelines.command import Command, CommandError, handles
from pipelines.compatibility import gaps_for_callers, gaps_for_readers
from pipelines.load import load


def test_what_this_release_publishes_is_what_is_committed():
    assert schemas.read(schemas.file_of("pipelines.table:HANDLERS")) == json.loads(
        json.dumps(schemas.publish_all(load("pipelines.table:HANDLERS")))
    )


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: int = 0


class SmallerPart(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class OpenPart(BaseModel):
    a: int


class StricterPart(BaseModel):
    a: int
    b: int = 0


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=0)
    branches: list[Tree] = []


class SmallerTree(BaseModel):
    model_config = ConfigDict(extra="forbid", title="Tree")
    size: int = Field(ge=1)
    branches: list[SmallerTree] = []


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


create: Any = create_model


def command(of: Any = None, default: Any = ..., **fields: Any) -> dict[str, Any]:
    """The payload schema of a command with a field `x`."""
    given_fields = fields if of is None else {"x": (of, default), **fields}
    return create("Made", __base__=Command, **given_fields).model_json_schema()


Secret = Annotated[str, Field(json_schema_extra={"writeOnly": True})]

COMPATIBLE = {
    "nothing changes": (command(str), command(str)),
    "a new optional field": (command(str), command(str, y=(int, 3))),
    "required no more": (command(str), command(str, "x")),
    "longer": (command(Annotated[str, Field(max_length=5)]), command(Annotated[str, Field(max_length=6)])),
    "any length": (command(Annotated[str, Field(min_length=5)]), command(str)),
    "from less on": (command(Annotated[int, Field(ge=1)]), command(Annotated[int, Field(ge=0)])),
    "a new member of an enum": (command(Literal["a", "b"]), command(Literal["a", "b", "c"])),
    "a constant becomes a choice": (command(Literal["a"]), command(Literal["a", "b"])),
    "null as well": (command(int), command(int | None)),
    "another type as well": (command(int), command(int | str)),
    "a wider number": (command(int), command(float)),
    "a part with a new optional field": (command(SmallerPart), command(Part)),
    "a list of them": (command(list[SmallerPart]), command(list[Part])),
    "longer lists": (command(Annotated[list[int], Field(max_length=5)]), command(list[int])),
    "a tree with more": (command(SmallerTree), command(Tree)),
    "one more kind": (command(Cat | None), command(Cat | Dog | None)),
    "no pattern any more": (command(Annotated[str, Field(pattern="^a")]), command(str)),
    "a coarser step": (command(Annotated[int, Field(multiple_of=6)]), command(Annotated[int, Field(multiple_of=3)])),
    "another description": (command(Annotated[str, Field(description="a")]), command(Annotated[str, Field(description="b")])),
    "another default": (command(str, "a"), command(str, "b")),
}

INCOMPATIBLE = {
    "a field is gone": (command(str, y=(int, 0)), command(str), "payload /y is gone"),
    "a field of an open part is gone": (command(StricterPart), command(OpenPart), "payload /x/b is gone"),
    "newly required": (command(str, "a"), command(str), "payload /x is newly required"),
    "a new required field": (command(str), command(str, y=(int, ...)), "payload /y is newly required"),
    "shorter": (
        command(Annotated[str, Field(max_length=6)]),
        command(Annotated[str, Field(max_length=5)]),
        "payload /x: maxLength was 6 and is 5",
    ),
    "a new limit": (command(int), command(Annotated[int, Field(ge=0)]), "payload /x: minimum was nothing and is 0"),
    "another type": (command(int), command(bool), 'payload /x: type was "integer" and is "boolean"'),
    "a narrower number": (command(float), command(int), 'payload /x: type was "number" and is "integer"'),
    "null no more": (command(int | None), command(int), 'payload /x: type was "null" and is "integer"'),
    "a member of an enum is gone": (command(Literal["a", "b"]), command(Literal["a"]), 'payload /x: enum was ["a","b"] and is ["a"]'),
    "any text becomes a choice": (command(str), command(Literal["a"]), 'payload /x: enum was nothing and is ["a"]'),
    "another pattern": (
        command(Annotated[str, Field(pattern="^a")]),
        command(Annotated[str, Field(pattern="^b")]),
        'payload /x: pattern was "^a" and is "^b"',
    ),
    "a finer step": (
        command(Annotated[int, Field(multiple_of=3)]),
        command(Annotated[int, Field(multiple_of=6)]),
        "payload /x: multipleOf was 3 and is 6",
    ),
    "distinct items": (command(list[int]), command(set[int]), "payload /x: uniqueItems was nothing and is true"),
    "further fields forbidden": (
        command(OpenPart), command(SmallerPart), "payload /x takes no further fields any more, and jobs may hold them",
    ),
    "a new field where further ones were taken": (
        command(OpenPart), command(StricterPart), 'payload /x/b: type was nothing and is "integer"',
    ),
    "deep in a list": (command(list[Part]), command(list[SmallerPart]), "payload /x/*/b is gone"),
    "deep in a mapping": (command(dict[str, int]), command(dict[str, str]), 'payload /x/*: type was "integer" and is "string"'),
    "a shorter tuple": (command(tuple[int, int]), command(tuple[int]), "payload /x: prefixItems was 2 and is 1"),
    "a tree with less": (command(Tree), command(SmallerTree), "payload /x/size: minimum was 0 and is 1"),
    "a kind is gone": (command(Cat | Dog), command(Cat), 'payload /x/kind: enum was ["dog"] and is ["cat"]'),
    "a secret is shown": (command(Secret), command(str), "payload /properties/x was masked and would be shown"),
    "a keyword that nobody knows": (
        command(str), {**command(str), "not": {"required": ["x"]}}, 'payload /: not was nothing and is {"required":["x"]}',
    ),
}  # fmt: skip


def published(payload: Any = None, result: Any = None, codes: tuple[str, ...] = ()) -> dict[str, schemas.Published]:
    return {"test.do": {"payload_schema": payload or command(str), "result_schema": result, "error_codes": dict.fromkeys(codes, "")}}


@pytest.mark.parametrize("what", COMPATIBLE)
def test_a_compatible_change_is_named_and_not_refused(what: str):
    old, new = COMPATIBLE[what]

    assert schemas.refused(published(old), published(new)) == []
    assert bool(schemas.changes(published(old), published(new))) == (what != "nothing changes")


@pytest.mark.parametrize("what", INCOMPATIBLE)
def test_an_incompatible_change_is_refused_with_a_sentence_and_the_advice(what: str):
    old, new, sentence = INCOMPATIBLE[what]

    assert f"test.do: {sentence}; make it test.do@2" in schemas.refused(published(old), published(new))


def result(**fields: Any) -> dict[str, Any]:
    return create("Result", **fields).model_json_schema(mode="serialization")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (result(a=(int, ...)), result(a=(int, ...), b=(int, ...)), None),
        (result(a=(float, ...)), result(a=(int, ...)), None),
        (result(a=(Literal["x", "y"], ...)), result(a=(Literal["x"], ...)), None),
        (None, result(a=(int, ...)), None),
        (result(a=(int, ...), b=(int, ...)), result(a=(int, ...)), "result /b is gone"),
        (result(a=(int, ...)), result(a=(str, ...)), 'result /a: type was "integer" and is "string"'),
        (result(a=(int, ...)), result(a=(int | None, ...)), 'result /a: type was "integer" and is "null"'),
        (result(a=(Literal["x"], ...)), result(a=(Literal["x", "y"], ...)), 'result /a: enum was ["x"] and is ["x","y"]'),
        (result(a=(int, ...)), None, "the result's schema is gone"),
    ],
)
def test_a_result_may_only_promise_more(old: Any, new: Any, sentence: str | None):
    expected = [f"test.do: {sentence}; make it test.do@2"] if sentence else []

    assert schemas.refused(published(result=old), published(result=new)) == expected


def test_a_command_and_an_error_code_stay_once_they_are_published():
    before = {**published(codes=("declined", "late")), "test.gone": published()["test.do"], "test.do@2": published()["test.do"]}
    now = {**published(codes=("declined",)), "test.do@2": published()["test.do"]}

    assert schemas.refused(before, now) == [
        "test.do: the error code 'late' is gone; make it test.do@3",
        "test.gone is gone, and jobs may hold it; keep it, or take it out of the file by hand once none does",
    ]


class Do(Command):
    command_name = "test.do"
    example: ClassVar = {}


class Late(CommandError):
    """It came too late."""

    code = "late"


def test_a_command_publishes_what_its_handler_says():
    handler = handles(Do, queue="test", rejects=(Late,), result=Part)(lambda _command, _run: None)

    assert schemas.publish(handler) == {
        "payload_schema": Do.model_json_schema(),
        "result_schema": Part.model_json_schema(mode="serialization"),
        "error_codes": {"late": "It came too late."},
    }


SIZES = st.integers(0, 4)
CHOICES = st.sets(st.sampled_from(["a", "b", "c", 1, True, None]), min_size=1).map(lambda found: sorted(found, key=repr))


def limits(low: str, high: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={low: SIZES, high: SIZES})


@st.composite
def objects(draw: st.DrawFn, members: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(st.sampled_from("xyz"), members, max_size=3))
    required = draw(st.sets(st.sampled_from(sorted(properties)))) if properties else set[str]()
    others = draw(st.one_of(st.booleans(), members))
    return {"type": "object", "properties": properties, "required": sorted(required), "additionalProperties": others}


SCHEMAS = st.recursive(
    st.one_of(
        st.just({}),
        CHOICES.map(lambda values: {"enum": values}),
        st.sampled_from(["a", 1, None]).map(lambda value: {"const": value}),
        limits("minLength", "maxLength").map(lambda bounds: {"type": "string", **bounds}),
        limits("minimum", "maximum").map(lambda bounds: {"type": "integer", **bounds}),
        limits("exclusiveMinimum", "maximum").map(lambda bounds: {"type": "number", **bounds}),
        st.sampled_from([{"type": "null"}, {"type": ["string", "null"]}, {"type": "integer", "multipleOf": 2}]),
    ),
    lambda inner: st.one_of(
        objects(inner),
        st.tuples(inner, limits("minItems", "maxItems")).map(lambda both: {"type": "array", "items": both[0], **both[1]}),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
        st.lists(inner, min_size=1, max_size=2).map(lambda first: {"type": "array", "prefixItems": first}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, 2, 3, 4, 1.5, "", "a", "b", "abc"]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("xyzw"), inner, max_size=3)),
    max_leaves=6,
)


NUMBERS = {"minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "minItems", "maxItems", "multipleOf"}


@st.composite
def changed(draw: st.DrawFn, schema: Any) -> Any:
    """Much the same: here and there a number, a keyword or a piece is another one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(SCHEMAS)
    if not isinstance(schema, dict):
        return draw(st.sampled_from([schema, schema, True, False]))
    new = {}
    for keyword, value in schema.items():
        match keyword:
            case "properties":
                new[keyword] = {name: draw(changed(each)) for name, each in value.items() if draw(st.integers(0, 5))}
            case "anyOf" | "prefixItems":
                new[keyword] = [draw(changed(each)) for each in value][: draw(st.integers(1, 3))]
            case "items" | "additionalProperties":
                new[keyword] = draw(changed(value))
            case "required":
                new[keyword] = sorted(set(value) ^ draw(st.sets(st.sampled_from("xyz"), max_size=1)))
            case "enum":
                new[keyword] = draw(st.sampled_from([value, value[:-1] or value, [*value, "z"]]))
            case "type":
                new[keyword] = value
            case _ if keyword in NUMBERS:
                new[keyword] = max(1, value + draw(st.integers(-1, 1)))
            case _:
                new[keyword] = value
    dropped = draw(st.sampled_from([None, None, None, *new]))
    return {keyword: value for keyword, value in new.items() if keyword != dropped}


@st.composite
def taken(draw: st.DrawFn, schema: Any) -> Any:
    """A value that this schema is likely to take."""
    match schema:
        case {"anyOf": branches}:
            return draw(taken(draw(st.sampled_from(branches))))
        case {"enum": values}:
            return draw(st.sampled_from(values))
        case {"const": value}:
            return value
        case {"type": "object", "properties": properties, "required": required, "additionalProperties": others}:
            names = [name for name in properties if name in required or draw(st.booleans())]
            further = draw(st.lists(st.sampled_from("xyzw"), max_size=2)) if others is not False else []
            return {name: draw(taken(properties.get(name, others))) for name in [*names, *further]}
        case {"type": "array", "prefixItems": first}:
            return [draw(taken(each)) for each in first][: draw(st.integers(0, 3))] + draw(st.lists(VALUES, max_size=1))
        case {"type": "array", "items": items}:
            return draw(st.lists(taken(items), max_size=5))
        case {"type": "string"}:
            return draw(st.text("ab", max_size=5))
        case {"type": "integer" | "number" as kind}:
            return draw(st.integers(0, 6) if kind == "integer" else st.sampled_from([0, 0.5, 1, 1.5, 2, 2.5, 3, 4]))
        case _:
            return draw(VALUES)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data(), SCHEMAS)
def test_whatever_was_taken_is_taken_after_a_change_that_is_called_compatible(data: st.DataObject, old: Any):
    new = data.draw(changed(old))
    for_callers, for_readers = gaps_for_callers(old, new), gaps_for_readers(new, old)
    assume(not for_callers or not for_readers)
    before, now = jsonschema_rs.validator_for(old), jsonschema_rs.validator_for(new)

    for _ in range(5):
        value = data.draw(taken(old))
        assert now.is_valid(value) or not before.is_valid(value)
