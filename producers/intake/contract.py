"""The words that routes document themselves with, and what follows from the document: what is not in it is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import compile_path

from producers.intake.parsing import KEY_PATTERN
from producers.intake.problems import KINDS, MEDIA_TYPE

METHODS = ("get", "post", "put", "patch", "delete")

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

#: What a submission over a limit is refused with.
LIMITED = ("rate-limited", "backlog-full")

Responses = dict[int | str, dict[str, Any]]

#: What a header field of a problem says, by status; those that always come are required.
PROBLEM_HEADERS: dict[int, dict[str, tuple[str, bool]]] = {
    401: {"WWW-Authenticate": ("how to authenticate (RFC 6750)", True)},
    403: {"WWW-Authenticate": ("that the key's role does not suffice", False)},
    405: {"Allow": ("the methods that there are", True)},
    409: {"Retry-After": ("seconds, where trying again helps", False)},
    415: {"Accept-Encoding": ("what a body may be encoded as", False)},
    429: {
        "Retry-After": ("seconds", True),
        "RateLimit": ("what is left of each quota (r), and in how many seconds there is more (t)", False),
        "RateLimit-Policy": ("the quotas: so many units (q) in so many seconds (w); one unit is one job", False),
    },
    503: {"Retry-After": ("seconds", True)},
}


def problems(*wanted: int | str) -> Responses:
    """Further problems that a route documents: statuses, or the names of the very kinds that it knows."""
    kinds = [name for each in wanted for name in ([each] if isinstance(each, str) else kinds_of(each))]
    statuses = dict.fromkeys(KINDS[name].status for name in kinds)
    return {status: problem_response(status, [name for name in kinds if KINDS[name].status == status]) for status in statuses}


def kinds_of(status: int) -> list[str]:
    return [name for name, kind in KINDS.items() if kind.status == status]


def key_parameter(description: str) -> dict[str, Any]:
    """The header Idempotency-Key of a route that is documented by hand."""
    schema = {"type": "string", "pattern": KEY_PATTERN}
    return {"name": "Idempotency-Key", "in": "header", "required": False, "description": description, "schema": schema}


def header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


def problem_response(status: int, kinds: Sequence[str] | None = None) -> dict[str, Any]:
    """A problem of this status as the document shows it, of these kinds (by default, of any that have it)."""
    names = kinds_of(status) if kinds is None else kinds
    exact = {"properties": {"type": {"enum": [f"/problems/{name}" for name in names]}, "status": {"const": status}}}
    response: dict[str, Any] = {
        "description": "; or: ".join(KINDS[name].title for name in names),
        "content": {MEDIA_TYPE: {"schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, exact]}}},
    }
    fields = PROBLEM_HEADERS.get(status, {})
    if fields:
        response["headers"] = {name: header(text) | {"required": required} for name, (text, required) in fields.items()}
    return response


@dataclass(frozen=True, slots=True)
class Documented:
    """One path of the document: by method, the query parameters that it takes, and the media types that it answers with."""

    template: str
    queries: dict[str, frozenset[str]]
    media: dict[str, tuple[str, ...]]

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
            known = {method.upper(): operations[method] for method in operations.keys() & set(METHODS)}
            documented = Documented(
                template,
                {method: _queries(operation) for method, operation in known.items()},
                {method: _media(operation) for method, operation in known.items()},
            )
            if "{" in template:
                self._patterns.append((compile_path(template)[0], documented))
            else:
                self._exact[template] = documented

    def find(self, path: str) -> Documented | None:
        found = self._exact.get(path)
        return found or next((documented for pattern, documented in self._patterns if pattern.match(path)), None)


def _queries(operation: dict[str, Any]) -> frozenset[str]:
    return frozenset(parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query")


def _media(operation: dict[str, Any]) -> tuple[str, ...]:
    """What it answers with when all is well."""
    answers = [response for status, response in operation["responses"].items() if status[0] == "2"]
    return tuple(dict.fromkeys(media for response in answers for media in response.get("content", {}))) or ("application/json",)
