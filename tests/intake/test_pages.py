"""What people see of the contract: `/docs` without a byte from elsewhere, and the pages that a problem's `type` leads to."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from urllib.parse import urljoin

import pytest

from producers.intake.explaining import EXPLANATIONS
from producers.intake.problems import KINDS
from producers.intake.views import ProblemKinds, ProblemKindView
from tests.intake.conftest import Api

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def policy(page: str, header: str) -> dict[str, list[str]]:
    """The content security policy by directive, in which each inline script and style of the page must be named by its hash."""
    directives = {name: values for name, *values in (part.split() for part in header.split(";"))}
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        for inline in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in directives[directive]
    return directives


def test_the_docs_load_everything_from_the_intake_itself(api: Api):
    page = api.client.get("/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    directives = policy(page.text, page.headers["content-security-policy"])

    assert {"docs/swagger-ui-bundle.js", "docs/swagger-ui.css"} <= set(loaded)
    for each in loaded:
        assert re.fullmatch(r"docs/[a-z.-]+", each)
        assert api.client.get(urljoin("/docs", each)).status_code == 200
    assert "//" not in page.text
    assert directives["default-src"] == ["'none'"]
    assert all(value.startswith("'") or value == "data:" for values in directives.values() for value in values)
    assert "'unsafe-inline'" not in directives["script-src"]


def test_the_docs_speak_openapi_3_1(api: Api):
    bundle = api.client.get("/docs/swagger-ui-bundle.js")

    assert bundle.headers["content-type"].startswith("text/javascript")
    version = re.search(r'PACKAGE_VERSION:"(\d+)\.', bundle.text)
    assert version
    assert int(version[1]) >= 5  # the first that does
    assert api.client.get("/docs/swagger-ui-bundle.js", headers={"if-none-match": bundle.headers["etag"]}).status_code in {200, 304}
    assert api.client.get("/docs/redoc.standalone.js").status_code == 404
    assert api.client.get("/docs/%2e%2e%2f__init__.py").status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/livez", "/metrics", "/problems", "/v1/jobs", "/nothing"])
def test_every_answer_is_what_it_says_and_names_no_server(api: Api, path: str):
    answer = api.client.get(path)

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_leads_to_a_page_that_says_what_it_means_and_what_to_do(api: Api, kind: str):
    assert kind in EXPLANATIONS, f"explain the problem {kind!r} in explaining.EXPLANATIONS"
    shown = ProblemKindView.model_validate(api.client.get(f"/problems/{kind}").json())
    page = api.client.get(f"/problems/{kind}", headers=BROWSER)
    plain = html.unescape(re.sub("<[^>]*>", "", page.text)).replace("`", "")

    assert (shown.type, shown.status, shown.title) == (f"/problems/{kind}", KINDS[kind].status, KINDS[kind].title)
    assert shown.example["type"] == f"/problems/{kind}"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "accept"
    assert policy(page.text, page.headers["content-security-policy"])["default-src"] == ["'none'"]
    for text in (shown.title, shown.meaning, shown.advice, shown.example["detail"]):
        assert text.replace("`", "").replace("\\", "") in plain.replace("\\", "")


def test_the_catalogue_lists_every_problem(api: Api):
    listed = ProblemKinds.model_validate(api.client.get("/problems").json())
    page = api.client.get("/problems", headers=BROWSER).text

    assert [each.type for each in listed.items] == [f"/problems/{kind}" for kind in KINDS]
    assert set(EXPLANATIONS) == set(KINDS)
    assert [each for each in KINDS if f'href="problems/{each}"' not in page] == []


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"), ("*/*", "application/json"), ("application/json", "application/json"), ("text/html", "text/html"),
        ("text/*", "text/html"), ("text/html;q=0.5, application/json", "application/json"), ("text/html;q=0", "application/json"),
        ("text/html, */*;q=0.1", "text/html"), ("application/problem+json", "application/json"), ("text/html;q=x", "application/json"),
    ],
)  # fmt: skip
def test_a_browser_gets_a_page_and_a_program_json(api: Api, accept: str, kind: str):
    answer = api.client.get("/problems/gone", headers={"accept": accept})

    assert answer.headers["content-type"].partition(";")[0] == kind
