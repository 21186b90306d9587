"""How much a tenant may submit: rates shared by intakes through a real Redis, and jobs that are open."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from console.servers.redis import RedisServer
from ledger.connection import Database
from producers.intake import limiting
from producers.intake.limiting import Policy, Rate
from producers.intake.views import LimitsView
from tests.intake.conftest import NOTE, Api, count, eventually, running_intake


def set_limits(api: Api, limits: dict[str, Any], role: str = "platform") -> httpx2.Response:
    query = f"?tenant={api.slug}" if role == "platform" else ""
    tag = api.get(f"/v1/limits{query}", role).headers["etag"]
    answer = api.call("PUT", f"/v1/limits{query}", role, json=limits, headers={"if-match": tag})
    assert answer.status_code == 200, answer.text
    return answer


def tenant_of(database: Database, api: Api) -> int:
    with database.plumbing() as tx:
        row = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchone()
    assert row is not None
    return row[0]


def limited(api: Api, limits: dict[str, Any], database: Database, *intakes: Api, role: str = "platform") -> None:
    """Set limits, and wait until every intake has seen them."""
    set_limits(api, limits, role)
    tenant = tenant_of(database, api)
    for each in intakes or (api,):
        assert each.server is not None
        limiter = each.server._parts.limiter
        wanted = limits.get("open_jobs"), (limits.get("submissions") or {}).get("burst"), (limits.get("each_key") or {}).get("burst")

        def seen(limiter: Any = limiter, wanted: Any = wanted) -> bool:
            policy = limiter.policy(tenant)
            return (policy.open_jobs, getattr(policy.submissions, "burst", None), getattr(policy.each_key, "burst", None)) == wanted

        eventually(seen)


@contextmanager
def another(database: Database, api: Api, **settings: Any) -> Iterator[Api]:
    with running_intake(database, **settings) as running:
        own = Api(running.url, api.keys, api.slug, running.server)
        yield own
        own.client.close()


def test_the_submission_after_the_quota_is_a_429_that_says_when_to_come_back(api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.5, "burst": 3}}, database)

    answers = [api.submit() for _ in range(4)]
    refused = answers[-1]
    invalid = api.submit({"command": "tests.note"})

    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert [answer.headers["ratelimit"] for answer in answers[:3]] == ['"tenant";r=2;t=2', '"tenant";r=1;t=4', '"tenant";r=0;t=6']
    assert {answer.headers["ratelimit-policy"] for answer in (*answers, invalid)} == {'"tenant";q=3;w=6'}
    problem = refused.json()
    assert (problem["type"], problem["violated-policies"]) == ("/problems/rate-limited", ["tenant"])
    state = re.fullmatch(r'"tenant";r=0;t=(\d+)', refused.headers["ratelimit"])
    assert state is not None
    assert int(state[1]) <= int(refused.headers["retry-after"]) <= 2
    assert count(database, api) == 3


def test_a_client_that_comes_back_when_it_is_told_is_never_refused_twice(api: Api, database: Database):
    limited(api, {"submissions": {"rate": 4, "burst": 2}}, database)

    for _ in range(4):
        answer = api.submit()
        if answer.status_code == 429:
            wait_until = time.monotonic() + int(answer.headers["retry-after"])
            eventually(lambda until=wait_until: time.monotonic() >= until)
            assert api.submit().status_code == 202


def test_limits_of_one_tenant_do_not_touch_another_and_none_costs_no_field(api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.1, "burst": 1}}, database)
    api.accepted()

    assert api.submit().status_code == 429
    others = [api.submit(role="foreign") for _ in range(5)]
    assert {answer.status_code for answer in others} == {202}
    assert all("ratelimit" not in answer.headers for answer in others)


def test_a_key_s_limit_and_its_tenant_s_hold_together(api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.1, "burst": 3}, "each_key": {"rate": 0.1, "burst": 2}}, database)

    first = [api.submit(role="submitter") for _ in range(3)]
    second = [api.submit(role="admin") for _ in range(2)]

    assert [answer.status_code for answer in (*first, *second)] == [202, 202, 429, 202, 429]
    assert first[2].json()["violated-policies"] == ["key"]
    assert second[1].json()["violated-policies"] == ["tenant"]
    assert first[0].headers["ratelimit-policy"] == '"tenant";q=3;w=30, "key";q=2;w=20'


def test_two_intakes_share_one_quota(api: Api, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("config.redis.TIMEOUT", 10)  # what is done without Redis is tried elsewhere
    with another(database, api, redis_url=redis_url) as one, another(database, api, redis_url=redis_url) as two:
        limited(api, {"submissions": {"rate": 0.01, "burst": 50}}, database, one, two)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda n: (one, two)[n % 2].submit().status_code, range(120)))

    assert answers.count(202) == 50  # a chunk is one token at this rate, so there is no error
    assert answers.count(429) == 70


def test_two_intakes_that_take_chunks_are_off_by_no_more_than_one_each(
    api: Api, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("config.redis.TIMEOUT", 10)  # what is done without Redis is tried elsewhere
    with another(database, api, redis_url=redis_url) as one, another(database, api, redis_url=redis_url) as two:
        limited(api, {"submissions": {"rate": 40, "burst": 100}}, database, one, two)
        began = time.monotonic()

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda n: (one, two)[n % 2].submit().status_code, range(300)))

        took = time.monotonic() - began
    chunk = 4
    assert answers.count(202) <= 100 + 40 * took + 2 * chunk
    assert answers.count(202) >= 100 - 2 * chunk


def test_without_redis_each_intake_holds_the_limit_by_itself_and_nobody_hangs(api: Api, database: Database, redis_server: RedisServer):
    with another(database, api, redis_url=redis_server.url) as own:
        limited(api, {"submissions": {"rate": 0.01, "burst": 10}}, database, own)
        before = [own.submit().status_code for _ in range(4)]

        redis_server.kill()
        try:
            began = time.monotonic()
            after = [own.submit().status_code for _ in range(10)]
            took = time.monotonic() - began
        finally:
            redis_server.start()

    assert before == [202] * 4
    assert after == [202] * 6 + [429] * 4  # what Redis gave counts here too
    assert took < 10


def test_a_batch_costs_its_number_of_items(api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.1, "burst": 10}}, database)

    first = api.post("/v1/jobs/batch?atomic=true", [NOTE] * 8)
    second = api.post("/v1/jobs/batch?atomic=true", [NOTE] * 3)
    third = api.post("/v1/jobs/batch", [NOTE] * 3)

    assert (first.status_code, second.status_code, third.status_code) == (202, 429, 207)
    assert ([item["status"] for item in third.json()["items"]], third.json()["problem"]["type"]) == ([202] * 2, "/problems/rate-limited")
    assert 1 <= int(third.headers["retry-after"]) <= 10
    assert count(database, api) == 10
    assert api.submit().status_code == 429


def test_a_batch_is_taken_bit_by_bit_and_a_repeat_with_its_key_goes_on_behind_what_is_there(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
):
    """Far more than a burst: each time what there is room for, and nothing is counted twice."""
    monkeypatch.setattr(limiting, "SET_SECONDS", 1)
    limited(api, {"submissions": {"rate": 100, "burst": 20}}, database)
    body, key = [NOTE] * 400, {"idempotency-key": "a batch"}
    began, taken = time.monotonic(), list[int]()

    while (answer := api.post("/v1/jobs/batch", body, headers=key)).status_code == 429 or "problem" in answer.json():
        assert time.monotonic() - began < 20
        taken.append(len(answer.json().get("items", ())))
        wait_until = time.monotonic() + int(answer.headers["retry-after"])
        eventually(lambda until=wait_until: time.monotonic() >= until)
    again = api.post("/v1/jobs/batch", body, headers=key)

    assert [item["status"] for item in answer.json()["items"]] == [202] * 400
    assert (taken[:3], taken) == ([100, 200, 300], sorted(set(taken)))  # each try got on
    assert (again.status_code, again.headers["idempotency-replayed"], count(database, api)) == (207, "true", 400)


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        (Policy(), 500),
        (Policy(Rate(1000, 1)), 500),
        (Policy(Rate(3.5, 1000)), 35),
        (Policy(Rate(0.01, 1000)), 1),
        (Policy(Rate(20, 5), Rate(2, 5)), 20),
        (Policy(open_jobs=70), 7),
        (Policy(Rate(1, 1), open_jobs=1), 1),
    ],
)
def test_a_set_of_a_batch_is_so_small_that_the_next_is_soon_let_in(policy: Policy, size: int):
    assert policy.set_size(500) == size


@pytest.mark.parametrize("limits", [{"submissions": {"rate": 0.01, "burst": 20}}, {"open_jobs": 20}])
def test_what_a_batch_has_already_is_not_refused_by_a_limit(api: Api, database: Database, limits: dict[str, Any]):
    limited(api, limits, database)
    first = [
        api.post(f"/v1/jobs/batch{query}", [NOTE] * 10, headers={"idempotency-key": query or "each"}) for query in ("", "?atomic=true")
    ]
    full = api.submit()

    again = [
        api.post(f"/v1/jobs/batch{query}", [NOTE] * 10, headers={"idempotency-key": query or "each"}) for query in ("", "?atomic=true")
    ]

    assert [answer.status_code for answer in (*first, full, *again)] == [207, 202, 429, 207, 202]
    assert [answer.json() for answer in again][1] == first[1].json()
    assert [answer.headers["idempotency-replayed"] for answer in again] == ["true", "true"]
    assert count(database, api) == 20


def test_a_batch_is_taken_in_part_by_a_tenant_that_may_have_few_open_jobs(api: Api, database: Database):
    limited(api, {"open_jobs": 50}, database)

    part = api.post("/v1/jobs/batch", [NOTE] * 60)
    all_or_none = api.post("/v1/jobs/batch?atomic=true", [NOTE] * 51)

    assert (part.status_code, part.json()["problem"]["type"]) == (207, "/problems/backlog-full")
    taken = len(part.json()["items"])
    assert taken in (45, 50)  # the last set but one counts twice if jobs are counted just then
    assert part.headers["retry-after"] == "2"
    assert (all_or_none.status_code, all_or_none.json()["type"]) == (413, "/problems/too-large")
    assert count(database, api) == taken


def test_a_tenant_with_as_many_open_jobs_as_it_may_gets_no_more(api: Api, database: Database):
    jobs = [api.accepted() for _ in range(3)]
    limited(api, {"open_jobs": 5}, database)
    backlogs = api.server._parts.limiter.backlogs if api.server else None
    assert backlogs is not None
    tenant = tenant_of(database, api)
    eventually(lambda: backlogs._counted.get(tenant) == 3 and not backlogs._since.get(tenant))

    answers = [api.submit() for _ in range(3)]
    batch = api.post("/v1/jobs/batch", [NOTE] * 2)
    api.post(f"/v1/jobs/{jobs[0]}/cancel")
    eventually(lambda: api.submit().status_code == 202)

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert (answers[2].json()["type"], batch.json()["type"]) == ("/problems/backlog-full", "/problems/backlog-full")
    assert answers[0].headers["ratelimit"] == '"open-jobs";r=1;t=2'
    assert count(database, api) == 6


def test_an_admin_tightens_what_was_granted_and_cannot_loosen_it(api: Api):
    set_limits(api, {"submissions": {"rate": 10, "burst": 20}, "open_jobs": 100})
    tighter = LimitsView.model_validate(set_limits(api, {"submissions": {"rate": 1, "burst": 5}}, "admin").json())
    looser = LimitsView.model_validate(set_limits(api, {"submissions": {"rate": 99, "burst": 99}, "open_jobs": 1000}, "admin").json())

    assert tighter.holds.submissions is not None
    assert (tighter.holds.submissions.rate, tighter.holds.submissions.burst, tighter.holds.open_jobs) == (1, 5, 100)
    assert looser.holds.submissions is not None
    assert (looser.holds.submissions.rate, looser.holds.submissions.burst, looser.holds.open_jobs) == (10, 20, 100)


def test_a_change_names_the_state_that_it_replaces(api: Api, database: Database):
    first = api.get("/v1/limits", "admin").headers["etag"]
    without = api.call("PUT", "/v1/limits", "admin", json={})
    done = api.call("PUT", "/v1/limits", "admin", json={"open_jobs": 7}, headers={"if-match": first})
    again = api.call("PUT", "/v1/limits", "admin", json={"open_jobs": 8}, headers={"if-match": first})

    assert [answer.status_code for answer in (without, done, again)] == [428, 200, 412]
    assert done.headers["etag"] == api.get("/v1/limits", "admin").headers["etag"]
    assert api.get("/v1/limits", "admin").json()["own"]["open_jobs"] == 7
    with database.plumbing() as tx:
        records = tx.execute("select action, data->'after'->'own' from haulier.audit where target = %s", (api.slug,)).fetchall()
    assert records == [("limits.change", {"open_jobs": 7})]


@pytest.mark.parametrize(
    "wish",
    [{"submissions": {"rate": 0, "burst": 1}}, {"submissions": {"rate": 1}}, {"open_jobs": 0}, {"open_jobs": 1.5}, {"reads": None}, []],
)
def test_limits_that_cannot_be_are_a_422(api: Api, wish: Any):
    assert api.call("PUT", "/v1/limits", "admin", json=wish, headers={"if-match": "*"}).status_code == 422
