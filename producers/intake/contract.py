"""The OpenAPI document, and what follows from it: what is not in it is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import compile_path

from config.settings import RELEASE
from producers.intake.problems import KINDS, MEDIA_TYPE

METHODS = ("get", "post", "put", "patch", "delete")
#: Any request may meet these, whatever it asks for.
ANYWHERE = (400, 404, 405, 406, 414, 431, 500, 503)
BEHIND_A_KEY = (401, 403)

PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "RFC 9457. `type` is stable; `errors` names the places in the body that are wrong.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "enum": [f"/problems/{name}" for name in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Further problems that a route documents."""
    return {status: _problem(status) for status in statuses}


def header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


def describe(app: FastAPI, extra_paths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The document: FastAPI's, with the routes that are not its own, and every problem that any request may meet."""
    document = get_openapi(
        title="Haulier",
        version=RELEASE,
        summary="Commands in over HTTP, carried out exactly once.",
        description="A 2xx to a submission is a promise: the job is durably in Postgres. Every error is a problem document (RFC 9457).",
        routes=app.routes,
    )
    paths = cast("dict[str, dict[str, Any]]", document["paths"])
    for path, operations in extra_paths.items():
        paths[path] = {**operations, **paths.get(path, {})}
    for path, operations in paths.items():
        for method in operations.keys() & set(METHODS):
            _complete(operations[method], behind_a_key=path.startswith("/v1/"))
    components = document.setdefault("components", {})
    schemas = {name: schema for name, schema in components.get("schemas", {}).items() if "ValidationError" not in name}
    components["schemas"] = {**schemas, "Problem": PROBLEM_SCHEMA}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "an API key, hl_…"}}
    return document


def _complete(operation: dict[str, Any], *, behind_a_key: bool) -> None:
    responses = cast("dict[str, Any]", operation["responses"])
    if "ValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status in ANYWHERE + (BEHIND_A_KEY if behind_a_key else ()):
        responses.setdefault(str(status), _problem(status))
    if behind_a_key:
        operation["security"] = [{"key": []}]


def _problem(status: int) -> dict[str, Any]:
    titles = [kind.title for kind in KINDS.values() if kind.status == status]
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": "; or: ".join(titles), "content": content}


@dataclass(frozen=True, slots=True)
class Documented:
    """One path of the document: by method, the query parameters that it takes."""

    template: str
    queries: dict[str, frozenset[str]]

    def unknown(self, method: str, names: list[str]) -> str | None:
        """The first query parameter that is not documented."""
        known = self.queries.get(method, frozenset())
        return next((name for name in names if name not in known and not (name.startswith("label.") and "label.{name}" in known)), None)


@dataclass(slots=True)
class Contract:
    """Finds a request's path in the document."""

    document: dict[str, Any]
    _exact: dict[str, Documented] = field(default_factory=dict[str, Documented])
    _patterns: list[tuple[re.Pattern[str], Documented]] = field(default_factory=list[tuple[re.Pattern[str], Documented]])

    def __post_init__(self) -> None:
        for template, operations in self.document["paths"].items():
            queries = {method.upper(): _queries(operations[method]) for method in operations.keys() & set(METHODS)}
            documented = Documented(template, queries)
            if "{" in template:
                self._patterns.append((compile_path(template)[0], documented))
            else:
                self._exact[template] = documented

    def find(self, path: str) -> Documented | None:
        found = self._exact.get(path)
        return found or next((documented for pattern, documented in self._patterns if pattern.match(path)), None)


def _queries(operation: dict[str, Any]) -> frozenset[str]:
    return frozenset(parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query")
