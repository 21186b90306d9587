"""The OpenAPI document, and what holds for every route."""

from __future__ import annotations

import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from producers.intake.views import CommandView
from tests.intake.conftest import Api


def test_the_document_is_openapi_3_1_and_names_every_route(api: Api):
    document = api.document

    assert document["openapi"].startswith("3.1")
    assert OpenAPI.model_validate(document)
    assert {"/v1/jobs", "/v1/jobs/{job_id}/cancel", "/v1/dead-letters/{job_id}/resolve", "/readyz", "/metrics"} <= set(document["paths"])
    assert set(document["paths"]["/v1/jobs"]) == {"get", "post"}
    assert "ValidationError" not in str(document)
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_of_the_document_leads_somewhere(api: Api):
    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set[str]()
            return own.union(*(references(value) for value in node.values()))
        return set[str]().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    found = references(api.document)

    assert found
    for reference in found:
        node = api.document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_the_docs_can_be_browsed(api: Api):
    assert api.client.get("/docs").status_code == 200


def test_a_command_shows_all_that_a_client_needs(api: Api):
    pay = CommandView.model_validate(api.get("/v1/commands/tests.pay").json())
    note = CommandView.model_validate(api.get("/v1/commands/tests.note").json())
    unknown = api.get("/v1/commands/tests.ntoe")

    assert (pay.queue, pay.error_codes, pay.result_schema) == ("payments", {"declined": "The card was declined."}, None)
    assert note.retry == {"max_failures": 5}
    assert note.payload_schema["required"] == ["text"]
    assert note.result_schema is not None
    assert (unknown.status_code, "did you mean 'tests.note'?" in unknown.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/jobs", "GET, POST"),
        ("DELETE", "/v1/jobs/00000000-0000-0000-0000-000000000000", "GET"),
        ("GET", "/v1/jobs/00000000-0000-0000-0000-000000000000/cancel", "POST"),
        ("PATCH", "/v1/keys", "GET, POST"),
        ("POST", "/livez", "GET"),
    ],
)
def test_another_method_is_a_405_that_names_those_there_are(api: Api, method: str, path: str, allow: str):
    answer = api.call(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/job", "/v1/jobs/", "/v2/jobs", "/v1/runs", "/%00", "/v1/jobs/%2e%2e"])
def test_another_path_is_a_404(api: Api, path: str):
    answer = api.get(path)

    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200), ("*/*", 200), ("application/*;q=0.5", 200), ("text/html, */*;q=0.1", 200),
        ("text/html", 406), ("application/xml", 406), ("application/json;q=0", 406),
    ],
)  # fmt: skip
def test_another_representation_is_a_406(api: Api, accept: str, status: int):
    assert api.get("/v1/jobs", headers={"accept": accept}).status_code == status


def test_a_long_url_and_long_headers_are_refused(api: Api):
    assert api.get("/v1/jobs?command=" + "x" * 21_000).status_code == 414
    assert api.get("/v1/jobs", headers={"x-long": "x" * 17_000}).status_code == 431


def test_a_type_leads_to_what_it_means(api: Api):
    kind = api.get("/v1/jobs/x").json()["type"]

    explained = api.call("GET", kind, None)

    assert (explained.status_code, explained.json()["type"], explained.json()["status"]) == (200, kind, 404)


def test_a_mistake_of_ours_is_a_problem_without_a_traceback(api: Api, monkeypatch: pytest.MonkeyPatch):
    from ledger import reading

    def fail(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(reading, "job", fail)
    answer = api.get("/v1/jobs/00000000-0000-0000-0000-000000000000")

    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
    assert "secret" not in answer.text


def test_every_metric_is_haulier_s_and_names_no_tenant(api: Api):
    api.accepted()
    api.get("/v1/jobs/x")

    text = api.call("GET", "/metrics", None).text

    families = list(text_string_to_metric_families(text))
    assert families
    assert all(family.name.startswith("haulier_") for family in families)
    assert api.slug not in text
    assert 'haulier_jobs_accepted_total{command="tests.note"}' in text
    assert 'haulier_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"}' in text
