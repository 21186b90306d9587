"""The demo's gateway and carrier as programs of their own, and how their faults are switched."""

from __future__ import annotations

import subprocess
import sys

import httpx2
import pytest

from tests.orders.direct import Outside

CHARGE = {"reference": "o-1", "amount": 100, "currency": "EUR", "card_token": "tok_visa"}


@pytest.mark.parametrize(("module", "what"), [("console.demo.gateway", "payment gateway"), ("console.demo.carrier", "carrier")])
def test_it_runs_as_a_program_and_says_where(module: str, what: str):
    with subprocess.Popen([sys.executable, "-m", module, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            books = Outside(said.rpartition(" ")[2].strip()).books()
        finally:
            process.terminate()

    assert said.startswith(f"{what} at http://127.0.0.1:")
    assert books["requests"] == 0


def charge(gateway: Outside, key: str | None = "k", **other: object) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return httpx2.post(f"{gateway.url}/charges", json={**CHARGE, **other}, headers=headers, trust_env=False)


def test_a_key_is_one_charge_and_another_wish_under_it_is_refused(gateway: Outside):
    answers = [charge(gateway), charge(gateway), charge(gateway, amount=99), charge(gateway, "k2"), charge(gateway, None)]

    assert [answer.status_code for answer in answers] == [201, 201, 422, 422, 400]
    assert answers[0].json() == answers[1].json()
    assert gateway.books()["captured"] == 100


def test_a_fault_holds_for_its_count_and_an_unknown_one_is_refused(gateway: Outside):
    gateway.switch("outage", count=2)

    statuses = [charge(gateway).status_code for _ in range(3)]
    unknown = httpx2.post(f"{gateway.url}/faults", json={"mode": "flood"}, trust_env=False)

    assert statuses == [503, 503, 201]
    assert unknown.status_code == 422
    assert "mode must be one of busy, declined, error_after, garbage" in unknown.json()["detail"]
