"""The matrix and the walk of the canaries find what they are for: each check of an intake is taken away for a moment, and they tell.

A tenant is held to its own twice, by the queries of the intake and by row-level security. Where only one of the two is gone, the other still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from ledger import keys
from ledger.connection import Database
from ledger.keys import Key
from ledger.reading import Job
from producers.intake import accepting, auth, batching, representation
from producers.intake.auth import Access
from producers.intake.parts import Door, Tx
from producers.intake.problems import Problem
from tests.intake.conftest import Api, Worker
from tests.intake.test_canary import shown_of, walked
from tests.intake.test_matrix import (
    Things,
    answered_wrongly,
    names_a_thing,
    open_to_all,
    open_to_other_tenants,
    things,
    told_apart,
    under_a_key,
)

__all__ = ["things"]

Check = Callable[[Request, frozenset[str]], Any]


def replace_check(monkeypatch: pytest.MonkeyPatch, authenticate: Check) -> None:
    for module in (auth, accepting, batching):
        monkeypatch.setattr(module, "authenticate", authenticate)


def forget_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries for a tenant's key ask for the things of all tenants."""
    wanted = Access.tenants
    monkeypatch.setattr(Access, "tenants", lambda self, tx: wanted(self, tx) if self.key.tenant_id is None else None)


def forget_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls acts in a role that sees all rows."""
    monkeypatch.setattr(Door, "use_for", lambda self, access, call: self.use_for_all(call))


def where(wrong: list[str]) -> set[str]:
    """Method and template."""
    return {" ".join(each.split()[:2]).rstrip(":") for each in wrong}


@pytest.mark.parametrize("role", ["viewer", "submitter", "operator", "admin"])
def test_every_operation_that_a_role_is_let_into_by_mistake_is_found(api: Api, things: Things, monkeypatch: pytest.MonkeyPatch, role: str):
    checked = auth.authenticate

    async def authenticate(request: Request, roles: frozenset[str]) -> Key:
        return await checked(request, frozenset(keys.ROLES))

    replace_check(monkeypatch, authenticate)
    forget_the_rows(monkeypatch)  # which hold some of them off: an orphan message is nothing that a tenant's role may read

    found = where(answered_wrongly(api, things, role))

    assert found == {f"{method} {template}" for method, template, operation in under_a_key(api) if role not in operation["x-roles"]}


def test_every_operation_that_asks_for_no_key_is_found(api: Api, things: Things, monkeypatch: pytest.MonkeyPatch):
    checked = auth.authenticate
    key = api.keys["admin"]

    async def authenticate(request: Request, roles: frozenset[str]) -> Key:
        if "authorization" in request.headers:
            return await checked(request, roles)
        found = await auth.parts_of(request).keyring.find(key)
        assert found
        return found

    replace_check(monkeypatch, authenticate)
    forget_the_rows(monkeypatch)

    assert where(open_to_all(api, things)) == {f"{method} {template}" for method, template, _ in under_a_key(api)}


def test_every_thing_of_a_foreign_tenant_that_is_shown_is_found(api: Api, things: Things, monkeypatch: pytest.MonkeyPatch):
    forget_the_filter(monkeypatch)
    forget_the_rows(monkeypatch)

    found = where(answered_wrongly(api, things, "admin"))

    assert found == {
        f"{method} {template}"
        for method, template, operation in under_a_key(api)
        if names_a_thing(template) and "admin" in operation["x-roles"]
    }


def test_what_a_foreign_tenant_wrote_and_is_shown_is_found(
    api: Api, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    forget_the_filter(monkeypatch)
    forget_the_rows(monkeypatch)

    leaks = walked(api, worker, database, 1, caplog).leaks()

    assert any(leak.startswith("get /v1/jobs") for leak in leaks)


@pytest.mark.parametrize("forget", [forget_the_filter, forget_the_rows])
def test_one_of_the_two_fences_around_a_tenant_is_enough(
    api: Api,
    things: Things,
    worker: Worker,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    forget: Callable[[pytest.MonkeyPatch], None],
):
    forget(monkeypatch)

    assert answered_wrongly(api, things, "admin") == []
    assert told_apart(api, things) == []
    # A stream of all events is read for all tenants at once: there, the filter alone holds.
    leaks = walked(api, worker, database, 1, caplog).leaks()
    assert {leak.partition(":")[0] for leak in leaks} <= ({"stream /v1/events"} if forget is forget_the_filter else set())


def test_a_key_that_may_name_another_tenant_is_found(api: Api, things: Things, monkeypatch: pytest.MonkeyPatch):
    named = Access.tenant_id

    def tenant_id(self: Access, tx: Tx) -> int:
        return named(self, tx) if self.key.tenant_id is None else self.key.tenant_id

    monkeypatch.setattr(Access, "tenant_id", tenant_id)

    assert len(open_to_other_tenants(api, things)) > 30


def test_an_answer_that_tells_a_foreign_job_from_none_is_found(api: Api, things: Things, monkeypatch: pytest.MonkeyPatch):
    def sees(self: Access, tx: Tx, job: Job) -> bool:
        if job.tenant_id != self.key.tenant_id:
            raise Problem("forbidden", "this job is another tenant's")
        return True

    forget_the_filter(monkeypatch)
    forget_the_rows(monkeypatch)
    monkeypatch.setattr(Access, "sees", sees)

    assert len(told_apart(api, things)) > 10


def test_payloads_that_are_shown_to_a_key_without_them_are_found(
    api: Api, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
):
    job_id = api.accepted({"command": "tests.note", "payload": {"text": "for few"}}, "admin")
    worker.kill(job_id)
    monkeypatch.setattr(Access, "payloads", True)

    assert {each.partition(" ")[0] for each in shown_of(api, worker, database, [job_id], ["for few"], "viewer")} == {
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/family",
        "/v1/dead-letters",
        "/v1/dead-letters/{job_id}",
    }


def test_a_secret_that_is_not_masked_is_found(api: Api, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch):
    job_id = api.accepted({"command": "tests.pay", "payload": {"lines": [], "token": "tok_secret"}}, "admin")
    monkeypatch.setattr(representation, "mask", lambda payload, handler: payload)

    assert shown_of(api, worker, database, [job_id], ["tok_secret"], "seeing") != []
