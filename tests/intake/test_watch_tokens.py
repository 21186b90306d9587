"""Watch tokens: they open one job and its family, for a while, to read; and nothing else, to nobody else."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest

from config.ids import uuid7
from config.settings import Settings
from ledger import jobs, tokens
from ledger.connection import Database
from ledger.jobs import Submission
from ledger.tokens import Secret
from producers.intake.auth import COOKIE
from producers.intake.tokens import Claims, sign
from producers.intake.views import WatchTokenView
from tests.intake.conftest import PAY, Api, Worker, eventually

OPENED = ("", "/timeline", "/family")
DONE = '{"length": 1}'


def minted(api: Api, job_id: str, role: str = "submitter", **wanted: Any) -> str:
    answer = api.post(f"/v1/jobs/{job_id}/watch-token", wanted or None, role)
    assert answer.status_code == 201, answer.text
    return WatchTokenView.model_validate(answer.json()).token


def look(api: Api, token: str, path: str, method: str = "GET", **arguments: Any) -> Any:
    return api.call(method, path, None, headers={"authorization": f"Bearer {token}"}, **arguments)


def add_follow_up(database: Database, parent: str, root: str) -> str:
    with database.plumbing() as tx:
        row = tx.execute("select tenant_id from haulier.jobs where id = %s", (parent,)).fetchone()
        assert row
        child = Submission(uuid7(), row[0], "tests.note", "notes", b'{"text": "x"}', 5, parent_id=UUID(parent), root_id=UUID(root))
        jobs.submit(tx, [child])
    return str(child.id)


@pytest.mark.parametrize("role", ["viewer", "submitter", "operator", "admin"])
def test_whoever_reads_a_job_makes_a_token_that_opens_it(api: Api, role: str):
    job_id = api.accepted()

    token = minted(api, job_id, role)

    assert [look(api, token, f"/v1/jobs/{job_id}{part}").status_code for part in OPENED] == [200] * len(OPENED)
    assert look(api, token, f"/v1/jobs/{job_id}").json()["id"] == job_id


def test_a_token_opens_the_family_below_its_job_and_nothing_above_or_beside(api: Api, database: Database):
    root, other = api.accepted(), api.accepted()
    head, sibling = add_follow_up(database, root, root), add_follow_up(database, root, root)
    below = add_follow_up(database, add_follow_up(database, head, root), root)
    of_root, of_head = minted(api, root), minted(api, head)

    def opened(token: str) -> set[str]:
        return {job_id for job_id in (root, head, sibling, below, other) if look(api, token, f"/v1/jobs/{job_id}").status_code == 200}

    assert opened(of_root) == {root, head, sibling, below}
    assert opened(of_head) == {head, below}
    assert look(api, of_head, f"/v1/jobs/{root}/family").status_code == 404
    assert look(api, of_head, f"/v1/jobs/{root}/events").status_code == 404
    waiting = {"authorization": f"Bearer {of_head}", "prefer": "wait=1"}
    assert api.call("GET", f"/v1/jobs/{root}", None, headers=waiting).status_code == 404
    assert look(api, of_head, f"/v1/jobs/{other}/timeline").json()["type"] == "/problems/not-found"


def test_a_token_opens_no_other_route(api: Api, worker: Worker):
    job_id = api.accepted()
    worker.kill(job_id)
    token = minted(api, job_id)
    wrong: list[str] = []

    for template, operations in api.document["paths"].items():
        for method, operation in operations.items():
            path = template.replace("{job_id}", job_id).replace("{name}", "tests.note").replace("{prefix}", token[:8])
            watchable = {"watch_token": []} in operation.get("security", [])
            answer = look(api, token, path, method.upper(), **({"json": {}} if method != "get" else {}))
            expected = {"/v1/jobs/{job_id}/watch-cookie": 204}.get(template, 200) if watchable else 403
            if template.startswith("/v1/") and answer.status_code != expected:
                wrong.append(f"{method} {path}: {answer.status_code}")

    assert wrong == []
    assert look(api, token, f"/v1/jobs/{job_id}/attempts").status_code == 403
    assert look(api, token, f"/v1/jobs?ids={job_id}").status_code == 403


def test_another_tenants_job_has_no_token(api: Api):
    assert api.post(f"/v1/jobs/{api.accepted()}/watch-token", role="foreign").status_code == 404
    assert api.call("POST", f"/v1/jobs/{api.accepted()}/watch-token", None).status_code == 401


def test_a_platform_key_makes_a_token_that_stays_within_one_tenant(api: Api):
    job_id, theirs = api.accepted(), api.accepted(role="foreign")
    answer = api.post(f"/v1/jobs/{job_id}/watch-token?tenant={api.slug}", role="platform")
    token = answer.json()["token"]

    assert look(api, token, f"/v1/jobs/{job_id}").status_code == 200
    assert "tenant" not in look(api, token, f"/v1/jobs/{job_id}").json()
    assert look(api, token, f"/v1/jobs/{theirs}").status_code == 404
    assert look(api, token, f"/v1/jobs/{job_id}?tenant=*").status_code == 403


def test_payloads_are_shown_only_when_the_key_shows_them_and_says_so(api: Api, worker: Worker):
    job_id = api.accepted(PAY)
    worker.complete(worker.begin(job_id), '{"paid": 1}')

    without, with_payloads = minted(api, job_id, "seeing"), minted(api, job_id, "seeing", payloads=True)
    refused = api.post(f"/v1/jobs/{job_id}/watch-token", {"payloads": True})

    assert refused.status_code == 403
    assert look(api, without, f"/v1/jobs/{job_id}").json()["result"] is None
    shown = look(api, with_payloads, f"/v1/jobs/{job_id}").json()
    assert (shown["result"], shown["payload"]["token"] == PAY["payload"]["token"]) == ({"paid": 1}, False)


@pytest.mark.parametrize("wanted", [{"expires_in": 9}, {"expires_in": 86_401}, {"expires_in": "60"}, {"expires": 60}, {"payloads": 1}, []])
def test_a_token_that_cannot_be_is_refused(api: Api, wanted: Any):
    answer = api.call("POST", f"/v1/jobs/{api.accepted()}/watch-token", json=wanted)

    assert answer.status_code == 422, answer.text


def test_a_token_says_how_long_it_is_good_for(api: Api):
    job_id = api.accepted()

    asked = api.post(f"/v1/jobs/{job_id}/watch-token", {"expires_in": 60}).json()
    usual = api.post(f"/v1/jobs/{job_id}/watch-token").json()

    now = datetime.now(UTC)
    assert now + timedelta(seconds=50) < datetime.fromisoformat(asked["expires_at"]) <= now + timedelta(seconds=60)
    assert datetime.fromisoformat(usual["expires_at"]) > now + timedelta(seconds=800)


def signing(database: Database) -> Secret:
    with database.plumbing() as tx:
        return tokens.list_secrets(tx)[0]


def forgeries(token: str, secret: Secret) -> dict[str, str]:
    header, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})

    def encode(part: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    def signed(key: Any = secret.secret, algorithm: str = "HS256", kid: str = secret.id, **changed: Any) -> str:
        own = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(own, key, algorithm, {"kid": kid})

    return {
        "changed": f"{header}.{encode({**claims, 'sub': str(uuid7())})}.{signature}",
        "cut": token[:-4],
        "unsigned": f"{encode({'alg': 'none', 'typ': 'JWT', 'kid': secret.id})}.{body}.",
        "unsigned, with a signature": f"{encode({'alg': 'none', 'kid': secret.id})}.{body}.{signature}",
        "another algorithm": signed(algorithm="HS512", key=secret.secret * 2),
        "expired": signed(exp=int(time.time()) - 1),
        "without an end": signed(exp=None),
        "for somebody else": signed(aud="haulier:other"),
        "for nobody": signed(aud=None),
        "another installation's": signed(key=b"x" * 32),
        "of a secret that is not there": signed(kid="01890000-0000-7000-8000-000000000000"),
        "of a file": signed(kid="../../etc/passwd"),
        "without a secret's name": jwt.encode(claims, secret.secret),
        "without a tenant": signed(tenant=None),
        "of a key that is not there": jwt.encode(claims | {"key": "aaaaaaaa"}, secret.secret, headers={"kid": secret.id}),
        "no token": "a.b.c",
        "empty": "..",
    }


def test_a_token_that_is_not_ours_word_for_word_is_a_401(api: Api, database: Database):
    job_id = api.accepted()
    token = minted(api, job_id)

    answers = {name: look(api, forged, f"/v1/jobs/{job_id}") for name, forged in forgeries(token, signing(database)).items()}

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 401)
    assert all('error="invalid_token"' in answer.headers["www-authenticate"] for answer in answers.values())
    assert look(api, token, f"/v1/jobs/{job_id}").status_code == 200


def test_a_token_in_a_url_is_refused(api: Api):
    job_id = api.accepted()
    token = minted(api, job_id)

    for name in ("token", "access_token", "watch_token", "jwt"):
        assert api.call("GET", f"/v1/jobs/{job_id}?{name}={token}", None).status_code in {400, 401}
    assert api.get(f"/v1/jobs/{job_id}?access_token={token}").status_code == 400


def test_a_token_dies_with_the_key_that_made_it(api: Api):
    job_id = api.accepted()
    token = minted(api, job_id)
    assert look(api, token, f"/v1/jobs/{job_id}").status_code == 200

    assert api.call("DELETE", f"/v1/keys/{api.keys['submitter'].split('_')[1]}", "admin").status_code == 204

    eventually(lambda: look(api, token, f"/v1/jobs/{job_id}").status_code == 401, 5)


def test_a_token_outlives_the_change_of_secrets_and_not_the_end_of_the_overlap(api: Api, database: Database):
    job_id = api.accepted()
    before = minted(api, job_id)
    assert look(api, before, f"/v1/jobs/{job_id}").status_code == 200

    with database.plumbing() as tx, tx.transaction():
        tokens.rotate(tx, timedelta(hours=1))
    after = minted(api, job_id)
    both = [look(api, token, f"/v1/jobs/{job_id}").status_code for token in (before, after)]
    with database.plumbing() as tx:
        tx.execute("update haulier.token_secrets set retires_at = now() where retires_at is not null")

    assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]
    assert both == [200, 200]
    eventually(lambda: look(api, before, f"/v1/jobs/{job_id}").status_code == 401, 5)
    assert look(api, after, f"/v1/jobs/{job_id}").status_code == 200
    with database.plumbing() as tx, tx.transaction():
        tokens.rotate(tx, timedelta(hours=1))
        assert len(tokens.list_secrets(tx)) == 2


def test_a_token_is_kept_in_a_cookie_for_the_jobs_routes_alone(api: Api):
    job_id, other = api.accepted(), api.accepted()
    token = minted(api, job_id)

    answer = look(api, token, f"/v1/jobs/{job_id}/watch-cookie", "POST")
    cookie = answer.headers["set-cookie"]
    sent = {"cookie": f"{COOKIE}={token}"}
    opened = [api.call("GET", f"/v1/jobs/{job_id}{part}", None, headers=sent).status_code for part in OPENED]

    assert answer.status_code == 204
    assert cookie.startswith(f"{COOKIE}={token}; ")
    assert {"HttpOnly", "Secure", "SameSite=strict", f"Path=/v1/jobs/{job_id}"} <= set(cookie.split("; "))
    assert 0 < int(cookie.split("Max-Age=")[1].split(";")[0]) <= 900
    assert opened == [200] * len(OPENED)
    assert api.call("GET", f"/v1/jobs/{other}", None, headers=sent).status_code == 404
    assert api.call("GET", "/v1/jobs", None, headers=sent).status_code == 403
    assert api.call("POST", f"/v1/jobs/{job_id}/cancel", None, headers=sent).status_code == 403
    assert api.call("GET", f"/v1/jobs/{job_id}", None, headers={"cookie": f"{COOKIE}=nonsense"}).status_code == 401


def test_an_api_key_is_not_put_into_a_cookie_and_none_is_read_from_one(api: Api):
    job_id = api.accepted()

    refused = api.post(f"/v1/jobs/{job_id}/watch-cookie")
    beside = api.call("GET", f"/v1/jobs/{job_id}", None, headers={"cookie": f"{COOKIE}={api.keys['viewer']}"})
    bad_key = {"authorization": "Bearer nonsense", "cookie": f"{COOKIE}={minted(api, job_id)}"}

    assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
    assert beside.status_code == 401
    assert api.call("GET", f"/v1/jobs/{job_id}", None, headers=bad_key).status_code == 401


def test_two_installations_do_not_share_a_secret(api: Api, database: Database, empty_database_url: str):
    from ledger.migrate import migrate

    migrate(empty_database_url)
    other = Database(empty_database_url)
    secret = signing(other)
    other.close()
    job_id = api.accepted()
    claims = jwt.decode(minted(api, job_id), options={"verify_signature": False})
    forged = Claims(UUID(job_id), claims["tenant"], claims["key"], False, datetime.now(UTC) + timedelta(hours=1))

    assert secret != signing(database)
    assert look(api, sign(forged, secret), f"/v1/jobs/{job_id}").status_code == 401
    assert look(api, sign(forged, signing(database)), f"/v1/jobs/{job_id}").status_code == 200


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://a.example/", "https://a.example/path", "ftp://a.example", "https://A.example", "a.example"]
)
def test_what_is_no_origin_is_refused_at_the_start(origin: str):
    with pytest.raises(ValueError, match="must be origins such as"):
        Settings(cors_origins=f"https://fine.example, {origin}")  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_a_token_waits_and_streams(api: Api, worker: Worker):
    job_id = api.accepted()
    headers = {"authorization": f"Bearer {minted(api, job_id)}"}
    lease = worker.begin(job_id)

    with api.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        worker.complete(lease, DONE)
        kinds = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    waited = api.call("GET", f"/v1/jobs/{job_id}", None, headers={**headers, "prefer": "wait=5"})

    assert kinds == ["accepted", "started", "succeeded"]
    assert (waited.status_code, waited.json()["state"]) == (200, "succeeded")


def test_a_stream_ends_when_the_key_that_made_its_token_is_revoked(api: Api):
    job_id = api.accepted()
    headers = {"authorization": f"Bearer {minted(api, job_id)}"}

    with api.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert api.call("DELETE", f"/v1/keys/{api.keys['submitter'].split('_')[1]}", "admin").status_code == 204
        rest = list(lines)

    assert stream.status_code == 200
    assert "event: accepted" in rest  # and it ended, or this would still be reading
