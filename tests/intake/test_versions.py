"""Versions of a command, side by side."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipelines.command import Command, handles
from pipelines.load import load
from producers.intake.representation import deprecations
from producers.intake.views import CommandView
from tests.intake.commands import HANDLERS
from tests.intake.conftest import NOTE, PAY, Api

TITLED = {"command": "tests.note@2", "payload": {"text": "hello", "title": "Greeting"}}


def test_a_bare_name_is_version_1_however_it_is_written(api: Api):
    bare, first, second = api.accepted(), api.accepted({**NOTE, "command": "tests.note@1"}), api.accepted(TITLED)

    shown = {job["id"]: job["command"] for job in api.get("/v1/jobs").json()["items"]}

    assert shown == {bare: "tests.note", first: "tests.note", second: "tests.note@2"}
    assert {job["id"] for job in api.get("/v1/jobs?command=tests.note").json()["items"]} == {bare, first}
    assert {job["id"] for job in api.get("/v1/jobs?command=tests.note@1").json()["items"]} == {bare, first}
    assert {job["id"] for job in api.get("/v1/jobs?command=tests.note@2").json()["items"]} == {second}


def test_each_version_is_held_to_its_own_schema(api: Api):
    old_to_new = api.submit({**NOTE, "command": "tests.note@2"})
    new_to_old = api.submit({**TITLED, "command": "tests.note"})

    assert [error["pointer"] for error in old_to_new.json()["errors"]] == ["/payload/title"]
    assert [error["pointer"] for error in new_to_old.json()["errors"]] == ["/payload/title"]


@pytest.mark.parametrize("version", ["3", "0", "-1", "01", "x", "", "2@2", "1@1"])
def test_an_unknown_version_names_those_there_are(api: Api, version: str):
    submitted = api.submit({**NOTE, "command": f"tests.note@{version}"})
    shown = api.get(f"/v1/commands/tests.note@{version}")

    assert (submitted.status_code, submitted.json()["nearest"], shown.status_code) == (422, "tests.note@2", 404)
    for answer in (submitted, shown):
        assert answer.json()["detail"] == f"unknown command 'tests.note@{version}'; of this command there is tests.note, tests.note@2"


def test_the_commands_say_their_versions_and_which_is_the_latest(api: Api):
    listed = [CommandView.model_validate(each) for each in api.get("/v1/commands").json()["items"]]
    explicit = api.get("/v1/commands/tests.note@1").json()

    assert [(each.name, each.version, each.latest) for each in listed] == [
        ("tests.note", 1, False),
        ("tests.note@2", 2, True),
        ("tests.pay", 1, True),
    ]
    assert explicit == api.get("/v1/commands/tests.note").json()
    assert explicit["sunset_at"] == "2027-05-01T00:00:00Z"


def test_whoever_submits_a_deprecated_version_is_told_so(api: Api):
    old, new, other = api.submit(), api.submit(TITLED), api.submit(PAY)

    assert old.headers["deprecation"] == "@1793491200"
    assert old.headers["sunset"] == "Sat, 01 May 2027 00:00:00 GMT"
    assert old.headers["link"] == '</v1/commands/tests.note@2>; rel="successor-version"'
    assert not {"deprecation", "sunset", "link"} & (set(new.headers) | set(other.headers))


def test_a_repeat_and_one_that_waits_are_told_so_as_well(api: Api):
    first = api.submit(key="once")
    repeat = api.submit(key="once")
    waited = api.post("/v1/jobs", NOTE, headers={"prefer": "wait=1"})

    assert {answer.headers["deprecation"] for answer in (first, repeat, waited)} == {"@1793491200"}
    assert {answer.headers["sunset"] for answer in (first, repeat, waited)} == {"Sat, 01 May 2027 00:00:00 GMT"}


@pytest.mark.parametrize("query", ["", "?atomic=true"])
def test_a_batch_with_a_deprecated_version_in_it_is_told_so(api: Api, query: str):
    key = {"idempotency-key": f"batch{len(query)}"}

    old, again = (api.post(f"/v1/jobs/batch{query}", [TITLED, NOTE, PAY, NOTE], headers=key) for _ in range(2))
    new = api.post(f"/v1/jobs/batch{query}", [TITLED, PAY])

    for answer in (old, again):
        assert answer.headers["deprecation"] == "@1793491200"
        assert answer.headers["sunset"] == "Sat, 01 May 2027 00:00:00 GMT"
        assert answer.headers["link"] == '</v1/commands/tests.note@2>; rel="successor-version"; anchor="/v1/commands/tests.note"'
    assert not {"deprecation", "sunset", "link"} & set(new.headers)


def test_a_batch_is_not_told_of_what_was_refused(api: Api):
    answer = api.post("/v1/jobs/batch", [TITLED, {**NOTE, "payload": {}}])

    assert [item["status"] for item in answer.json()["items"]] == [202, 422]
    assert "deprecation" not in answer.headers


def test_of_several_deprecated_versions_a_batch_is_told_the_earliest_dates_and_each_successor():
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
    handlers = HANDLERS | {
        "tests.pay": replace(HANDLERS["tests.pay"], deprecated=early, sunset=late),
        "tests.pay@2": HANDLERS["tests.pay"],
        "tests.old": replace(HANDLERS["tests.pay"], sunset=datetime(2027, 1, 1, tzinfo=UTC)),
    }

    told = deprecations({"tests.pay", "tests.note", "tests.old", "tests.pay@2"}, handlers)

    assert (told["deprecation"], told["sunset"]) == ("@1767225600", "Fri, 01 Jan 2027 00:00:00 GMT")
    assert told["link"].split(", ") == [
        f'</v1/commands/{command}@2>; rel="successor-version"; anchor="/v1/commands/{command}"' for command in ("tests.note", "tests.pay")
    ]


def named(name: str):
    made = type("Odd", (Command,), {"command_name": name, "example": {}, "__module__": __name__})
    return {name: handles(made, queue="test")(lambda _command, _run: None)}


ODD = named("tests.odd@1")
EVEN = named("tests.odd@12")


def test_a_table_names_version_1_by_the_bare_name():
    with pytest.raises(ValueError, match=r"names tests\.odd@1; a command's name is as orders\.place"):
        load(f"{__name__}:ODD")
    assert "tests.odd@12" in load(f"{__name__}:EVEN")
