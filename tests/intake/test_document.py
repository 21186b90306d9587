"""The OpenAPI document as it is committed: that it is what runs, leaves nothing out, and holds together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import Route

from config.settings import Settings
from ledger.connection import Database
from pipelines.load import load
from producers.intake.app import route
from producers.intake.contract import METHODS
from producers.intake.document import TAGS, as_text
from producers.intake.problems import KINDS
from tests.intake.conftest import Api, running_intake

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"

#: Routes for people's eyes, which are pages and not part of the contract.
PAGES = {"/docs", "/docs/{name}", "/openapi.json"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, each in document["paths"].items():
        for method in METHODS:
            if method in each:
                yield method, path, each[method]


def test_the_committed_document_is_what_runs(database: Database):
    with running_intake(database, load(Settings.model_fields["handlers"].default)) as api:
        running = as_text(api.document)

    # Not a comparison that pytest would draw: a hundred thousand characters.
    assert (running == COMMITTED.read_text()) is True, (
        "the routes are not as docs/openapi.json says: run `make openapi`, and look at the diff"
    )


def test_no_route_is_outside_the_document_and_none_is_in_it_that_is_not_there(api: Api):
    app, contract = route(load("tests.intake.commands:HANDLERS"))

    there = {
        (method.lower(), context.path_format if hasattr(context, "path_format") else context.path)
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, Route)
        for method in set(context.methods or ()) - {"HEAD"}
    } | {("post", "/v1/jobs")}  # it goes past the routes (producers/intake/express.py)

    assert {(method, path) for method, path in there if path not in PAGES} == {each[:2] for each in operations(contract.document)}


def test_every_operation_is_described_and_says_what_may_go_wrong(api: Api):
    ids = [operation["operationId"] for _, _, operation in operations(api.document)]

    assert len(ids) == len(set(ids))
    for method, path, operation in operations(api.document):
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("description"), where
        assert len(operation["tags"]) == 1, where
        assert operation["tags"][0] in TAGS, f"{where}: describe the tag {operation['tags'][0]!r} in document.TAGS"
        assert {"400", "404", "405", "406", "414", "431", "500", "503"} <= set(operation["responses"]), where
        if path.startswith("/v1/"):
            assert operation.get("x-roles"), f"{where}: no dependency of auth.ENFORCED says who may use it"
            assert operation["security"], where
            assert {"401", "403"} <= set(operation["responses"]), where
        if "requestBody" in operation:
            assert {"408", "413", "415"} <= set(operation["responses"]), where


def test_every_query_parameter_and_header_is_described(api: Api):
    for method, path, operation in operations(api.document):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] != "path":
                assert parameter.get("description"), f"{method} {path}: {parameter['name']}"


def test_every_problem_is_some_operation_s(api: Api):
    text = str(api.document["paths"]) + str(api.document["components"]["responses"])

    assert [kind for kind in KINDS if f"/problems/{kind}'" not in text] == []


def test_every_link_leads_to_an_operation_that_takes_what_it_gives(api: Api):
    by_id = {operation["operationId"]: operation for _, _, operation in operations(api.document)}
    links = [
        link for operation in by_id.values() for response in operation["responses"].values() for link in response.get("links", {}).values()
    ]

    assert len(links) > 30
    for link in links:
        taken = {parameter["name"] for parameter in by_id[link["operationId"]]["parameters"]}
        assert set(link["parameters"]) <= taken, link
    submitted = by_id["accept_job"]["responses"]["202"]["links"]
    assert {"show_job", "cancel_job", "list_attempts", "show_timeline", "show_family"} <= set(submitted)


def test_every_example_fits_its_schema(api: Api):
    checked = 0
    for method, path, operation in operations(api.document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content.get("examples"), f"{method} {path}: give its body an example (json_schema_extra of its model)"
            for example in content["examples"].values():
                schema = content["schema"] | {"components": api.document["components"]}
                jsonschema_rs.validator_for(schema).validate(example["value"])
                checked += 1

    assert checked >= 6


def test_a_response_s_status_says_which_problems_it_may_be(api: Api):
    cancel = api.document["paths"]["/v1/jobs/{job_id}/cancel"]["post"]["responses"]["409"]
    exact = cancel["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]

    assert exact == {"type": {"enum": ["/problems/wrong-state"]}, "status": {"const": 409}}


@pytest.mark.parametrize("name", ["tests.note", "tests.pay"])
def test_a_submission_is_one_of_the_commands_with_its_own_payload(api: Api, name: str):
    schemas = api.document["components"]["schemas"]
    own = schemas[name]

    assert schemas["Submission"]["discriminator"]["mapping"][name] == f"#/components/schemas/{name}"
    assert own["properties"]["command"]["const"] == name
    assert schemas[f"{name}.payload"]["additionalProperties"] is False
    assert own["properties"]["max_failures"]["anyOf"][0]["maximum"] == load("tests.intake.commands:HANDLERS")[name].retry.max_failures
