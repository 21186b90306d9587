"""The OpenAPI document put together: what FastAPI knows of the routes, and what it does not: roles, problems, links, each command's schema."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from config.settings import RELEASE
from pipelines.command import Handler
from producers.intake.auth import COOKIE, ENFORCED, WATCH
from producers.intake.contract import METHODS, PROBLEM_SCHEMA, problem_response
from producers.intake.explaining import example_of
from producers.intake.problems import KINDS, MEDIA_TYPE
from producers.intake.webhooks import describe_messages, message_schemas
from producers.strict_json import MAX_INTEGER

#: Any request may meet these, whatever it asks for.
ANYWHERE = (400, 404, 405, 406, 414, 431, 500, 503)
BEHIND_A_KEY = (401, 403)

TAGS = {
    "jobs": "Submit a job, follow it to its end, cancel it.",
    "dead letters": "Jobs that need a person: find, understand, repair and replay them.",
    "tenants and keys": "Who may do what: tenants, and their API keys.",
    "webhooks": "Receivers that are told how jobs end, by Standard Webhooks; what they were told, and telling them again.",
    "operating": "The commands there are, messages without a job, health, metrics, and what the problems mean.",
}

#: What a path may take besides `…_id`, as the items of its collection call it.
NAMES = {"name", "prefix", "slug"}

#: Answers that are a job, and lists of jobs: from each, links lead to all that can be done with one job.
JOBS = {"JobView": "#/id", "ReplayedView": "#/id", "Jobs": "#/items/0/id"}
DEAD_LETTERS = {"DeadLetterView": "#/id"}

Document = dict[str, Any]
Operation = dict[str, Any]
#: By a path that ends in one id: the parameter's name, and the operation.
Targets = list[tuple[str, str]]


def describe(app: FastAPI, handlers: Mapping[str, Handler], extra_paths: Mapping[str, dict[str, Operation]]) -> Document:
    """The whole document, for this release and these commands. `extra_paths` are the routes that are not FastAPI's."""
    document = get_openapi(
        title="Haulier",
        version=RELEASE,
        summary="Commands in over HTTP, carried out exactly once.",
        description=(
            "A 2xx to a submission is a promise: the job is durably in Postgres. Every error is a problem document (RFC 9457), whose `type`"
            " leads to a page that says what to do. Times are RFC 3339 in UTC, durations seconds, ids UUIDv7. Unknown fields and query"
            " parameters are refused. `x-roles` names the roles of keys that may use an operation; `watch` stands for a watch token."
        ),
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    paths = cast("dict[str, dict[str, Operation]]", document["paths"])
    for path, operations in extra_paths.items():
        paths[path] = {**copy.deepcopy(operations), **paths.get(path, {})}
    components = cast("dict[str, Any]", document.setdefault("components", {}))
    schemas = {name: schema for name, schema in components.get("schemas", {}).items() if "ValidationError" not in name}
    components["schemas"] = schemas | {"Problem": PROBLEM_SCHEMA}
    components["responses"] = {f"Problem{status}": problem_response(status) for status in sorted({kind.status for kind in KINDS.values()})}
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "an API key, hl_…"},
        "watch_token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "opens one job and its family"},
        "watch_cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "a watch token, for EventSource"},
    }
    roles = _find_roles(app)
    for path, method, operation in _operations(document):
        if (method, path) in roles:
            operation.setdefault("x-roles", sorted(roles[method, path]))
            operation.setdefault("security", _credentials(roles[method, path]))
        _complete(operation, behind_a_key=path.startswith("/v1/"))
        if "{job_id}" in path:
            operation["responses"].setdefault("410", {"$ref": "#/components/responses/Problem410"})
        if "428" in operation["responses"]:
            _require(operation, "if-match")
        _share_schemas(operation, components["schemas"])
    _show_problems(document)
    _offer_commands(document, handlers)
    document["webhooks"] = describe_messages()
    components["schemas"] |= message_schemas()
    _link(document)
    return document


def _operations(document: Document) -> Iterator[tuple[str, str, Operation]]:
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                yield path, method, operations[method]


def _find_roles(app: FastAPI) -> dict[tuple[str, str], frozenset[str]]:
    """Who may use each route, from the very dependency that refuses the others."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            route = cast("APIRoute", context)
            enforced = [ENFORCED[call] for call in _calls(route.dependant) if call in ENFORCED]
            if enforced:
                found |= {(method.lower(), route.path_format): frozenset.intersection(*enforced) for method in route.methods or ()}
    return found


def _credentials(roles: frozenset[str]) -> list[dict[str, list[str]]]:
    """What opens a route: a key, a watch token in one of its two places, or any of them."""
    names = (["key"] if roles - WATCH else []) + (["watch_token", "watch_cookie"] if roles & WATCH else [])
    return [{name: []} for name in names]


def _calls(dependant: Any) -> Iterator[Callable[..., object]]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)


def _require(operation: Operation, name: str) -> None:
    """Say of a header that a request without it is refused. (To FastAPI it is optional, so that the refusal is ours to word.)"""
    for parameter in operation["parameters"]:
        if parameter["name"].lower() == name:
            parameter |= {"required": True, "schema": {"type": "string", "minLength": 1}}


def _complete(operation: Operation, *, behind_a_key: bool) -> None:
    """Add every problem that any request may meet, and the key that it takes."""
    operation["summary"] = operation["summary"].capitalize()
    responses = cast("dict[str, Any]", operation["responses"])
    if "ValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status in ANYWHERE + (BEHIND_A_KEY if behind_a_key else ()):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
    if behind_a_key:
        operation.setdefault("security", [{"key": []}])


def _share_schemas(operation: Operation, schemas: dict[str, Any]) -> None:
    """Move a body's schema, and what it defines, to the components: references within it are from the document's root."""
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    for content in (content for body in bodies for content in body.get("content", {}).values()):
        schema = content.get("schema", {})
        examples = schema.pop("examples", [])
        if schema:
            content["schema"] = _share(schema, schemas)
        if "items" in schema:
            schema["items"] = _share(schema["items"], schemas)
        if "anyOf" in schema:
            schema["anyOf"] = [_share(each, schemas) for each in schema["anyOf"]]
        if examples:
            content.setdefault("examples", {str(n): {"value": example} for n, example in enumerate(examples, start=1)})


def _share(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "object" or "title" not in schema:
        return schema
    own = orjson.loads(orjson.dumps(schema).replace(b"#/$defs/", b"#/components/schemas/"))
    schemas.update(own.pop("$defs", {}))
    schemas[own["title"]] = own
    return {"$ref": f"#/components/schemas/{own['title']}"}


def _show_problems(document: Document) -> None:
    """Give every problem that a response may be an example."""
    everywhere = document["components"]["responses"].values()
    for response in (*everywhere, *(each for _, _, operation in _operations(document) for each in operation["responses"].values())):
        content = response.get("content", {}).get(MEDIA_TYPE)
        if content is not None:
            types = content["schema"]["allOf"][1]["properties"]["type"]["enum"]
            content["examples"] = {kind: {"value": example_of(kind)} for kind in (each.rpartition("/")[2] for each in types)}


def _offer_commands(document: Document, handlers: Mapping[str, Handler]) -> None:
    """Make a submission one of the commands that there are, each with its own payload; and an item of a batch likewise."""
    schemas = document["components"]["schemas"]
    for name, handler in handlers.items():
        payload = handler.command.model_json_schema(ref_template=f"#/components/schemas/{_component(name)}.{{model}}")
        _bound_integers(payload)
        schemas.update({f"{_component(name)}.{each}": schema for each, schema in payload.pop("$defs", {}).items()})
        schemas[f"{_component(name)}.payload"] = payload
    schemas["Submission"] = _one_of(schemas, "Submission", "", handlers)
    schemas["BatchItem"] = _one_of(schemas, "BatchItem", ".item", handlers)
    examples = {name: {"command": name, "payload": dict(handler.command.example)} for name, handler in handlers.items()}
    single = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    single["application/json"]["examples"] = {
        name: {"summary": f"as GET /v1/commands/{name} shows it", "value": example} for name, example in examples.items()
    }
    batch = document["paths"]["/v1/jobs/batch"]["post"]["requestBody"]["content"]
    items = list(examples.values())
    batch["application/json"]["examples"] = {"items": {"value": items}}
    batch["application/x-ndjson"]["examples"] = {"lines": {"value": "".join(f"{orjson.dumps(item).decode()}\n" for item in items)}}


def _bound_integers(schema: Any) -> None:
    """Within a payload's schema: whole numbers end where JSON's are no longer exact (RFC 8259, section 6), whatever their model allows."""
    if isinstance(schema, list):
        for each in cast("list[Any]", schema):
            _bound_integers(each)
    elif isinstance(schema, dict):
        known = cast("dict[str, Any]", schema)
        if known.get("type") == "integer":
            if not {"minimum", "exclusiveMinimum"} & known.keys():
                known["minimum"] = -MAX_INTEGER
            if not {"maximum", "exclusiveMaximum"} & known.keys():
                known["maximum"] = MAX_INTEGER
        for each in known.values():
            _bound_integers(each)


def _one_of(schemas: dict[str, Any], wish: str, suffix: str, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    """The schema of this wish, as one of those of the commands, which become components of their own."""
    common = schemas[wish]
    mapping: dict[str, str] = {}
    for name, handler in sorted(handlers.items()):
        own = copy.deepcopy(common)
        own["title"] = f"{common['title']} of {name}"
        own["properties"]["command"] = {"type": "string", "const": name}
        own["properties"]["payload"] = {"$ref": f"#/components/schemas/{_component(name)}.payload"}
        own["properties"]["max_failures"]["anyOf"][0]["maximum"] = handler.retry.max_failures
        schemas[_component(name) + suffix] = own
        mapping[name] = f"#/components/schemas/{_component(name)}{suffix}"
    return {
        "title": common["title"],
        "description": common["description"],
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "command", "mapping": mapping},
    }


def _component(name: str) -> str:
    """A command's name as components may be called."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _link(document: Document) -> None:
    """Links from what an operation answers to the operations that take its id: by name, so that new routes are linked as they come."""
    by_collection: dict[str, Targets] = {}
    for path, _, operation in _operations(document):
        if path.count("{") == 1:
            collection, _, rest = path.partition("/{")
            parameter = rest.partition("}")[0]
            if parameter in NAMES or parameter.endswith("_id"):
                by_collection.setdefault(collection, []).append((parameter, operation["operationId"]))
    for path, method, operation in _operations(document):
        for status, response in operation["responses"].items():
            if status[0] == "2":
                links = dict(_links(by_collection, path, method, _answers(response)))
                links.pop(operation["operationId"], None)
                if links:
                    response.setdefault("links", {}).update(links)


def _links(by_collection: Mapping[str, Targets], path: str, method: str, schema: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for parameter, target in by_collection.get(path, ()):
        field = parameter if parameter in NAMES else "id"
        yield target, _to(target, parameter, f"#/items/0/{field}" if method == "get" else f"#/{field}")
    for collection, places in (("/v1/jobs", JOBS | DEAD_LETTERS), ("/v1/dead-letters", DEAD_LETTERS)):
        if schema in places:
            for parameter, target in by_collection[collection]:
                yield target, _to(target, parameter, places[schema])


def _to(operation_id: str, parameter: str, place: str) -> dict[str, Any]:
    return {"operationId": operation_id, "parameters": {parameter: f"$response.body{place}"}}


def _answers(response: dict[str, Any]) -> str:
    """The name of the schema of a response in JSON."""
    reference: str = response.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    return reference.rpartition("/")[2]


def as_text(document: Document) -> str:
    """As it is committed: sorted and indented, so that a change shows as what it is."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
