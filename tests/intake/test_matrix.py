"""Every role at every operation of the OpenAPI document, on things of its own tenant and of a foreign one.

Who may do what is read from the document (`x-roles`), which has it from the very dependency that refuses the others. A new route
is tried by itself, with the document's example; one whose path names another thing fails until `Things` says how it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from ledger import calls
from ledger.connection import Database
from ledger.keys import ROLES
from tests.intake.conftest import NOTE, Api, Worker
from tests.intake.test_document import operations

#: Bodies, where the document's own example would not do; and what those who may are answered, where it is no 2xx.
BODIES: dict[str, Any] = {
    "accept_job": NOTE,
    "accept_batch": [NOTE],
    "add_tenant": {"slug": "!", "name": ""},
}
REFUSED: dict[str, set[int]] = {"add_tenant": {422}}

#: Operations that belong to the platform, and name no tenant.
PLATFORM_ONLY = {"list_orphan_messages", "list_tenants", "add_tenant"}


class Things:
    """Makes what a path names, in the tenant of a key."""

    def __init__(self, api: Api, worker: Worker, database: Database) -> None:
        self._api = api
        self._worker = worker
        self._database = database
        self.makers: dict[str, Callable[[str, str], str]] = {
            "job_id": self.job,
            "name": lambda _, __: "tests.note",
            "prefix": self.key,
            "kind": lambda _, __: "gone",
            "batch_id": self.batch,
            "webhook_id": self.webhook,
            "delivery_id": lambda _, owner: self.delivery(owner),
        }

    def job(self, path: str, owner: str) -> str:
        job_id = self._api.accepted(role=owner)
        if path.endswith("/resolve"):
            lease = self._worker.begin(job_id)
            with self._database.plumbing() as tx:
                calls.intend(tx, lease, "ship", 0, honours_key=False)  # as the document's example has it
            self._worker.bury(lease, "needs_review")
        elif "/dead-letters/" in path:
            self._worker.kill(job_id)
        elif path.endswith(("/events", "/result")):
            self._worker.complete(self._worker.begin(job_id), "null")  # its stream ends, and it has a result
        return job_id

    def key(self, _: str, owner: str) -> str:
        return self._api.post("/v1/keys", {"role": "viewer", "name": "one"}, owner).json()["prefix"]

    def batch(self, _: str, owner: str) -> str:
        return self._api.post("/v1/jobs/batch", [NOTE], owner).json()["batch_id"]

    def webhook(self, _: str, owner: str) -> str:
        owner = owner if owner == "foreign" else "admin"
        wish = {"url": "https://receiver.invalid/", "events": ["job.dead"]}
        self._webhook = self._api.post("/v1/webhooks", wish, owner).json()["id"]
        return self._webhook

    def delivery(self, owner: str) -> str:
        owner = owner if owner == "foreign" else "admin"
        return self._api.post(f"/v1/webhooks/{self._webhook}/test", role=owner).json()["id"]

    def path(self, template: str, owner: str) -> str:
        """The path with ids of things that belong to this key's tenant."""
        parts = template.split("/")
        for place, part in enumerate(parts):
            if part.startswith("{"):
                maker = self.makers.get(part[1:-1])
                assert maker, f"{template}: say in Things.makers how {part} is made"
                parts[place] = maker(template, owner)
        return "/".join(parts)


@pytest.fixture
def things(api: Api, worker: Worker, database: Database) -> Things:
    return Things(api, worker, database)


def untried(path: str) -> bool:
    """What no key opens, and only a watch token: test_watch_tokens tries it."""
    return path.endswith("/watch-cookie")


def under_a_key(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for method, path, operation in operations(api.document)
        if path.startswith("/v1/") and not untried(path)
    ]


def body_for(operation: dict[str, Any]) -> Any:
    """A body that is accepted as it stands: one of our own, or the document's example."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return BODIES.get(operation["operationId"], next((each["value"] for each in content.get("examples", {}).values()), None))


def status_of(api: Api, method: str, path: str, role: str | None, operation: dict[str, Any]) -> int:
    body = body_for(operation)
    if path.partition("?")[0] == "/v1/events":
        headers = {"authorization": f"Bearer {api.keys[role]}"} if role else {}
        with api.client.stream(method, path, headers=headers) as answer:
            return answer.status_code
    # A change is made from the version that there is, whichever it is.
    headers = {"if-match": "*"} if method in {"PATCH", "PUT"} else {}
    return api.call(method, path, role, headers=headers, **({"json": body} if body is not None else {})).status_code


def allowed(operation: dict[str, Any]) -> set[int]:
    return REFUSED.get(operation["operationId"], {200, 201, 202, 204, 207})


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_the_document_says_on_its_own_and_nothing_on_what_is_foreign(api: Api, things: Things, role: str):
    assert answered_wrongly(api, things, role) == []


def answered_wrongly(api: Api, things: Things, role: str) -> list[str]:
    wrong: list[str] = []
    for method, template, operation in under_a_key(api):
        platform_only = operation["operationId"] in PLATFORM_ONLY
        query = f"?tenant={api.slug}" if role == "platform" and not platform_only and takes_tenant(operation) else ""
        own = status_of(api, method, things.path(template, "admin") + query, role, operation)
        expected = allowed(operation) if role in operation["x-roles"] else {403}
        if own not in expected:
            wrong.append(f"{method} {template}: {own}, expected {expected}")
        if names_a_thing(template):
            foreign = status_of(api, method, things.path(template, "foreign") + query, role, operation)
            expected = {404} if role in operation["x-roles"] else {403}
            if foreign not in expected:
                wrong.append(f"{method} {template} of a foreign tenant: {foreign}, expected {expected}")
    return wrong


def names_a_thing(template: str) -> bool:
    """Whether the path names something that belongs to one tenant."""
    return "_id}" in template or "{prefix}" in template


def takes_tenant(operation: dict[str, Any]) -> bool:
    return any(parameter["name"] == "tenant" for parameter in operation.get("parameters", ()))


def test_without_a_key_every_operation_is_a_401_and_tells_nothing(api: Api, things: Things):
    assert open_to_all(api, things) == []


def open_to_all(api: Api, things: Things) -> list[str]:
    return [
        f"{method} {template}"
        for method, template, operation in under_a_key(api)
        if status_of(api, method, things.path(template, "admin"), None, operation) != 401
    ]


def test_a_tenant_s_key_names_no_other_tenant(api: Api, things: Things):
    assert open_to_other_tenants(api, things) == []


def open_to_other_tenants(api: Api, things: Things) -> list[str]:
    return [
        f"{method} {template}?tenant={slug}"
        for method, template, operation in under_a_key(api)
        if takes_tenant(operation) and "admin" in operation["x-roles"]
        for slug in (f"other-{api.slug}", "no-such-one", "*")
        if status_of(api, method, things.path(template, "foreign") + f"?tenant={slug}", "admin", operation)
        not in ({403} if template not in UNASKED else allowed(operation))
    ]


#: What is the same for all tenants: there, ?tenant= has nothing to say.
UNASKED = {"/v1/commands", "/v1/commands/{name}"}


def test_a_platform_key_says_which_tenant_it_means(api: Api, things: Things):
    wrong: list[str] = []
    for method, template, operation in under_a_key(api):
        if not takes_tenant(operation) or "platform" not in operation["x-roles"] or template in UNASKED:
            continue
        unsaid = status_of(api, method, things.path(template, "admin"), "platform", operation)
        unknown = status_of(api, method, things.path(template, "admin") + "?tenant=no-such-one", "platform", operation)
        foreign = status_of(api, method, things.path(template, "foreign") + f"?tenant=other-{api.slug}", "platform", operation)
        if (unsaid, unknown) != (400, 404) or foreign not in allowed(operation):
            wrong.append(f"{method} {template}: {unsaid} without a tenant, {unknown} for one that is not there, {foreign} for another")

    assert wrong == []


def test_a_foreign_id_is_answered_as_one_that_nobody_has(api: Api, things: Things):
    assert told_apart(api, things) == []


def told_apart(api: Api, things: Things) -> list[str]:
    """Where the answer is not, byte for byte, the same but for the id: it would tell that somebody has it."""
    wrong: list[str] = []
    for method, template, operation in under_a_key(api):
        if "{job_id}" not in template:
            continue
        role = next(each for each in ("admin", "platform") if each in operation["x-roles"])
        body = body_for(operation)
        foreign, nobody = things.job(template, "foreign"), str(uuid4())
        answers = [
            api.call(method, template.replace("{job_id}", each), role, **({"json": body} if body is not None else {}))
            for each in (foreign, nobody)
        ]
        first, second = (
            (answer.status_code, sorted(answer.headers.items()), answer.text.replace(each, "…"))
            for answer, each in zip(answers, (foreign, nobody), strict=True)
        )
        if without_date(first) != without_date(second):
            wrong.append(f"{method} {template}: {first} and {second}")
    return wrong


def without_date(answer: tuple[int, list[tuple[str, str]], str]) -> tuple[int, list[tuple[str, str]], str]:
    return answer[0], [header for header in answer[1] if header[0] != "date"], answer[2]
