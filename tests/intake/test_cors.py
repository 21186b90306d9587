"""Pages of other origins: those that are named may follow a job, in a real browser; others are told nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ledger.connection import Database
from tests.intake.browser import Site, site
from tests.intake.conftest import NOTE, Api, Worker, make_keys, running_intake

PREFLIGHT = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}

FOLLOW = """
const job = "%(url)s/v1/jobs/%(job)s", bearer = {authorization: "Bearer %(token)s"}
const first = await fetch(job, {headers: bearer})
const again = await fetch(job, {headers: {...bearer, "if-none-match": first.headers.get("etag")}})
const kept = await fetch(job + "/watch-cookie", {method: "POST", headers: bearer, credentials: "include"})
const byCookie = await fetch(job, {credentials: "include"})
const kinds = await new Promise((found, failed) => {
    const source = new EventSource(job + "/events", {withCredentials: true}), seen = []
    for (const kind of ["accepted", "started", "succeeded"]) source.addEventListener(kind, () => {
        seen.push(kind)
        if (kind == "succeeded") { source.close(); found(seen) }
    })
    source.onerror = () => failed("the stream failed after " + seen)
})
const without = await fetch(job, {credentials: "omit"})
const problem = await without.json()
return {
    state: (await first.json()).state, retry: first.headers.get("retry-after"), again: again.status, kept: kept.status,
    byCookie: byCookie.status, scripts: document.cookie, kinds, without: without.status, problem: problem.type,
    challenge: without.headers.get("www-authenticate"),
}
"""


@pytest.fixture
def page() -> Iterator[Site]:
    with site() as server:
        yield server


@pytest.fixture
def open_api(database: Database, page: Site) -> Iterator[Api]:
    """An intake that names the page's origin."""
    with running_intake(database, cors_origins=(page.origin, "https://app.example.com")) as running:
        running.slug, running.keys = make_keys(database)
        yield running


def following(api: Api, job_id: str) -> str:
    token = api.post(f"/v1/jobs/{job_id}/watch-token").json()["token"]
    return FOLLOW % {"url": api.url.replace("127.0.0.1", "localhost"), "job": job_id, "token": token}


def test_a_page_of_a_named_origin_follows_a_job_with_a_bearer_and_with_a_cookie(open_api: Api, page: Site, worker: Worker):
    job_id = open_api.accepted()
    worker.complete(worker.begin(job_id), '{"length": 1}')

    report = page.open(following(open_api, job_id))

    assert report == {
        "found": {
            "state": "succeeded", "retry": None, "again": 304, "kept": 204, "byCookie": 200, "scripts": "", "kinds": ["accepted", "started", "succeeded"], "without": 401,
            "problem": "/problems/unauthenticated", "challenge": 'Bearer realm="haulier"',
        }
    }  # fmt: skip


def test_a_page_of_another_origin_is_told_nothing(open_api: Api, page: Site):
    job_id = open_api.accepted()
    script = following(open_api, job_id)

    with site() as stranger:
        report = stranger.open(script)

    assert report == {"failed": "TypeError: Failed to fetch"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com"])
def test_an_origin_that_is_not_named_gets_no_leave(open_api: Api, origin: str):
    preflight = open_api.call("OPTIONS", "/v1/jobs", None, headers={"origin": origin, **PREFLIGHT})
    read = open_api.get("/v1/jobs", headers={"origin": origin})

    assert (preflight.status_code, preflight.json()["type"]) == (400, "/problems/malformed-request")
    assert "access-control-allow-origin" not in {*preflight.headers, *read.headers}
    assert read.status_code == 200  # it is the browser that keeps it from the page


def test_a_named_origin_gets_leave_for_what_a_page_needs(open_api: Api):
    origin = "https://app.example.com"

    preflight = open_api.call("OPTIONS", "/v1/jobs", None, headers={"origin": origin, **PREFLIGHT})
    read = open_api.get("/v1/jobs", headers={"origin": origin})
    refused = open_api.call("OPTIONS", "/v1/jobs", None, headers={"origin": origin, **PREFLIGHT, "access-control-request-method": "DELETE"})
    plain = open_api.call("OPTIONS", "/v1/jobs", None, headers={"origin": origin})

    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, origin)
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert (read.headers["access-control-allow-origin"], "origin" in read.headers["vary"].lower()) == (origin, True)
    assert {"ETag", "Location", "Retry-After", "RateLimit", "Idempotency-Replayed", "Preference-Applied"} <= set(
        read.headers["access-control-expose-headers"].split(", ")
    )
    assert refused.status_code == 400
    assert (plain.status_code, plain.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize(("method", "body"), [("GET", {}), ("POST", {"json": NOTE})])
def test_a_page_can_read_that_the_intake_made_a_mistake(open_api: Api, method: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    def break_down(*_: Any, **__: Any) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("producers.intake.jobs.reading.list_jobs", break_down)
    monkeypatch.setattr("producers.intake.accepting.prepare", break_down)

    named, stranger = (
        open_api.call(method, "/v1/jobs", headers={"origin": origin}, **body)
        for origin in ("https://app.example.com", "https://evil.example")
    )

    assert (named.status_code, named.json()["type"]) == (stranger.status_code, stranger.json()["type"]) == (500, "/problems/internal")
    assert named.headers["access-control-allow-origin"] == "https://app.example.com"
    assert named.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in stranger.headers


def test_without_configuration_no_origin_gets_leave(api: Api, worker: Worker):
    headers: dict[str, Any] = {"origin": "https://app.example.com", **PREFLIGHT}

    preflight = api.call("OPTIONS", "/v1/jobs", None, headers=headers)
    read = api.get("/v1/jobs", headers=headers)

    assert preflight.status_code == 405
    assert not any(name.startswith("access-control") for name in (*preflight.headers, *read.headers))
