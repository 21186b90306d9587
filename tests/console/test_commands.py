"""The commands that people type, against a `haulier dev`: what they do, what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.console.running import Dev, haulier
from tests.crash.rig import eventually

NOWHERE = "http://127.0.0.1:9"
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


def test_a_job_that_succeeds_is_waited_for(dev: Dev):
    done = dev.run("submit", "test.divide", "--payload", '{"dividend": 6, "divisor": 3}', "--wait", "--json")

    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["state"], job["result"]) == ("succeeded", 2)


def test_a_payload_comes_from_a_file_or_from_standard_input(dev: Dev):
    (dev.directory / "payload.json").write_text('{"dividend": 8, "divisor": 2}')

    from_file = dev.run("submit", "test.divide", "--payload", "@payload.json", "--wait")
    from_input = dev.run("submit", "test.divide", "--payload", "-", "--wait", given='{"dividend": 9, "divisor": 1}')

    assert (from_file.returncode, from_input.returncode) == (0, 0), from_file.stderr + from_input.stderr
    assert "4" in from_file.stdout.split()
    assert "9" in from_input.stdout.split()


def test_the_same_key_is_the_same_job(dev: Dev):
    order = ("submit", "test.divide", "--payload", '{"dividend": 1, "divisor": 1}', "--key", "once")

    first, second = dev.ask(*order), dev.ask(*order)

    assert first["id"] == second["id"]


def test_all_that_a_submission_may_say_has_a_flag(dev: Dev):
    told = ("--priority", "7", "--label", "source=web", "--label", "note=a=b", "--max-failures", "2")
    later = ("--run-at", "2099-01-01T00:00:00Z", "--expires-at", "2099-01-02T00:00:00+01:00")

    expected = (7, 2, {"source": "web", "note": "a=b"}, "scheduled")

    valid = dev.ask("submit", "test.await_file", "--payload", '{"path": "/x"}', *told, "--delay", "60", "--validate-only")
    refused = dev.run("submit", "test.await_file", "--payload", '{"path": "/x"}', *told, *later)
    job = dev.ask("submit", "test.await_file", "--payload", '{"path": "/x"}', *told, "--delay", "60", *later[2:])
    dev.run("jobs", "cancel", job["id"])

    assert tuple(valid[name] for name in ("priority", "max_failures", "labels", "state")) == expected
    assert tuple(job[name] for name in ("priority", "max_failures", "labels", "state")) == expected
    assert (refused.returncode, refused.stderr) == (2, "haulier: run_at must be at most a year ahead\n"), refused.stderr


def test_validating_stores_nothing(dev: Dev):
    before = dev.ask("jobs", "list", "--command", "test.crash")["items"]

    done = dev.run("submit", "test.crash", "--validate-only")

    assert (done.returncode, "queued" in done.stdout) == (0, True), done.stderr
    assert dev.ask("jobs", "list", "--command", "test.crash")["items"] == before


def test_a_unique_key_is_held_returned_refused_and_taken_over(dev: Dev):
    order = ("submit", "test.divide", "--payload", '{"dividend": 1, "divisor": 1}', "--delay", "600", "--unique", "nightly")

    holder = dev.ask(*order, "--unique-while", "3600")
    same, refused = dev.ask(*order), dev.run(*order, "--on-conflict", "reject")
    taken = dev.ask(*order, "--unique-while", "active", "--on-conflict", "replace")
    dev.run("jobs", "cancel", taken["id"])

    assert same["id"] == holder["id"]
    assert (refused.returncode, holder["id"] in refused.stderr) == (1, True), refused.stderr
    assert taken["id"] != holder["id"]
    assert dev.ask("jobs", "show", holder["id"])["state"] == "cancelled"


def test_a_file_of_submissions_is_submitted_once_and_says_what_was_refused(dev: Dev):
    good = [json.dumps({"command": "test.divide", "payload": {"dividend": n, "divisor": 1}}) for n in range(1200)]
    (dev.directory / "all.ndjson").write_text("\n".join(good) + "\n\n")
    lines = [*good[:2], "", '{"command": "test.devide", "payload": {}}', good[2]]

    first, again = (dev.ask("submit", "--batch", "@all.ndjson", "--key", "the file") for _ in range(2))
    some = dev.run("submit", "--batch", "-", given="\n".join(lines))
    for_scripts = dev.run("submit", "--batch", "-", "--json", given="\n".join(lines))

    assert (first["accepted"], first["refused"]) == (1200, 0)
    assert [item["id"] for item in again["items"]] == [item["id"] for item in first["items"]]
    assert (some.returncode, for_scripts.returncode) == (1, 1)
    assert some.stdout.startswith("line 4 is refused: /command: unknown command 'test.devide'")
    assert some.stdout.endswith("3 accepted, 1 refused\n")
    assert [item["status"] for item in json.loads(for_scripts.stdout)["items"]] == [202, 202, 422, 202]


def test_a_file_is_submitted_however_long_a_limit_makes_it_wait(dev: Dev):
    platform = {"authorization": f"Bearer {dev.announced['keys']['platform']}"}
    with httpx2.Client(base_url=dev.announced["url"], headers=platform, trust_env=False) as http:
        http.post("/v1/tenants", json={"slug": "slow", "name": "Slow"}).raise_for_status()
        key = http.post("/v1/keys?tenant=slow", json={"role": "submitter", "name": "slow"}).json()["key"]
        limits = {"submissions": {"rate": 0.5, "burst": 5}}
        http.put("/v1/limits?tenant=slow", json=limits, headers={"if-match": "*"}).raise_for_status()
        eventually(lambda: "ratelimit" in http.post("/v1/jobs", headers={"authorization": f"Bearer {key}"}, json={}).headers, 20)
    line = json.dumps({"command": "test.divide", "payload": {"dividend": 1, "divisor": 1}})

    done = dev.run("submit", "--batch", "-", given="\n".join([line] * 8), HAULIER_URL=dev.announced["url"], HAULIER_API_KEY=key)

    assert (done.returncode, done.stdout) == (0, "8 accepted, 0 refused\n"), done.stderr
    assert "wait for a limit" in done.stderr


def test_a_file_that_nobody_takes_may_be_sent_again(dev: Dev):
    done = dev.run(
        "submit", "--batch", "-", given='{"command": "test.crash", "payload": {}}', HAULIER_URL=NOWHERE, HAULIER_API_KEY="hl_none"
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "repeat it with --key" in done.stderr


def test_a_dead_letter_is_found_repaired_and_replayed(dev: Dev):
    died = dev.run("submit", "test.divide", "--payload", '{"dividend": 5, "divisor": 0}', "--wait", "--json")
    job_id = json.loads(died.stdout)["id"]

    listed = dev.ask("dead", "list", "--command", "test.divide", "--code", "unfit")
    shown = dev.run("dead", "show", job_id)
    replayed = dev.run("dead", "replay", job_id, "--payload", '{"dividend": 5, "divisor": 5}', "--reason", "a typing error")
    watched = dev.run("jobs", "watch", job_id, "--json")

    assert died.returncode == 1
    assert [job["id"] for job in listed["items"]] == [job_id]
    assert "5 by zero" in shown.stdout
    assert (shown.returncode, replayed.returncode, watched.returncode) == (0, 0, 0)
    assert json.loads(watched.stdout.splitlines()[-1])["result"] == 1
    assert "replayed" in dev.run("jobs", "show", job_id).stdout


def test_a_job_that_waits_is_cancelled_and_a_finished_one_is_not(dev: Dev):
    job_id = dev.submit("test.divide", {"dividend": 1, "divisor": 1}, delay=3600)

    first, second = dev.run("jobs", "cancel", job_id), dev.run("jobs", "cancel", job_id)

    assert (first.returncode, first.stdout) == (0, f"job {job_id} is cancelled\n")
    assert (second.returncode, second.stdout) == (1, "")
    assert "cancelled" in second.stderr


@pytest.mark.parametrize("what", [("jobs", "list"), ("jobs", "list", "--state", "succeeded", "--limit", "1"), ("dead", "list")])
def test_a_list_is_for_people_or_for_scripts(dev: Dev, what: tuple[str, ...]):
    for_people, for_scripts = dev.run(*what), dev.ask(*what)

    assert for_people.returncode == 0
    assert for_people.stdout.startswith("id ")
    assert for_scripts.keys() == {"items", "next_cursor"}


def test_a_list_goes_on_where_it_ended(dev: Dev):
    ids = [dev.submit("test.divide", {"dividend": n, "divisor": 1}) for n in range(3)]

    first = dev.ask("jobs", "list", "--limit", "2", "--command", "test.divide")
    second = dev.ask("jobs", "list", "--limit", "2", "--command", "test.divide", "--cursor", first["next_cursor"])

    assert [job["id"] for job in (*first["items"], *second["items"])][:3] == ids[::-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "test.devide"), "did you mean 'test.divide'?"),
        (("submit", "test.divide", "--payload", '{"dividend": 1}'), "/payload/divisor"),
        (("submit", "test.divide", "--payload", "{"), "--payload must be JSON"),
        (("submit", "test.divide", "--payload", "@nowhere.json"), "nowhere.json cannot be read"),
        (("submit", "test.divide", "--payload", "[1]"), "--payload must be a JSON object"),
        (("submit", "test.divide", "--label", "web"), "--label takes NAME=VALUE"),
        (("submit", "test.divide", "--unique-while", "active"), "--unique KEY"),
        (("submit", "test.divide", "--unique", "a", "--unique-while", "soon"), "number of seconds"),
        (("submit", "test.divide", "--unique", "a", "--on-conflict", "fight"), "--on-conflict"),
        (("submit", "test.divide", "--validate-only", "--wait"), "--wait"),
        (("submit", "test.divide", "--delay", "-1"), "/delay"),
        (("submit", "test.divide", "--batch", "-"), "--batch goes with"),
        (("submit", "--priority", "1", "--batch", "-"), "--batch goes with"),
        (("submit", "--batch", "all.ndjson"), "@file or -"),
        (("submit", "--batch", "@nowhere.ndjson"), "nowhere.ndjson cannot be read"),
        (("submit", "--batch", "-"), "no submission"),
        (("jobs", "show", "17"), "UUID"),
        (("jobs", "shwo", UNKNOWN_ID), "No such command"),
        (("jobs", "list", "--limit", "0"), "--limit"),
        (("no-such-command",), "No such command"),
        (("submit",), "Missing argument"),
    ],
)
def test_wrong_use_ends_with_status_2(dev: Dev, arguments: tuple[str, ...], said: str):
    done = dev.run(*arguments)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("jobs", "show", UNKNOWN_ID), ("jobs", "watch", UNKNOWN_ID), ("dead", "show", UNKNOWN_ID), ("dead", "replay", UNKNOWN_ID)],
)
def test_what_is_not_there_ends_with_status_1(dev: Dev, arguments: tuple[str, ...]):
    done = dev.run(*arguments)

    assert done.returncode == 1
    assert done.stdout == ""
    assert UNKNOWN_ID in done.stderr


def test_a_key_that_is_not_known_and_an_intake_that_is_away_end_with_status_1(dev: Dev):
    unknown = dev.run("jobs", "list", HAULIER_URL=dev.announced["url"], HAULIER_API_KEY="hl_none")
    away = dev.run("jobs", "list", HAULIER_URL=NOWHERE, HAULIER_API_KEY="hl_none")

    assert (unknown.returncode, away.returncode) == (1, 1)
    assert "API key" in unknown.stderr
    assert "does not answer" in away.stderr


def test_watch_tokens_run_out_by_themselves_or_at_once(dev: Dev):
    database = {"HAULIER_DATABASE_URL": dev.database_url}
    made = [("rotate",), ("rotate", "--now")]

    with psycopg.connect(dev.database_url, autocommit=True) as connection:
        believed: list[int] = []
        for arguments in made:
            done = dev.run("tokens", *arguments, **database)
            assert done.returncode == 0, done.stderr
            row = connection.execute("select count(*) from haulier.token_secrets where retires_at is null or retires_at > now()").fetchone()
            assert row
            believed.append(row[0])
        audited = connection.execute("select who, data from haulier.audit where action = 'token_secret.rotate' order by id").fetchall()

    assert believed == [2, 1]
    assert [data for _, data in audited] == [{"now": False}, {"now": True}]
    assert audited[0][0].startswith("console:")


def test_tenants_and_keys_are_made_on_the_database_itself(dev: Dev):
    database = {"HAULIER_DATABASE_URL": dev.database_url}

    made = dev.run("tenants", "create", "acme", **database)
    again = dev.run("tenants", "create", "acme", **database)
    key = json.loads(dev.run("keys", "create", "--tenant", "acme", "--role", "viewer", "--json", **database).stdout)
    used = dev.run("jobs", "list", "--json", HAULIER_URL=dev.announced["url"], HAULIER_API_KEY=key["key"])
    listed = json.loads(dev.run("keys", "list", "--tenant", "acme", "--json", **database).stdout)["items"]
    revoked = [dev.run("keys", "revoke", key["prefix"], **database).returncode for _ in range(2)]

    assert (made.returncode, again.returncode) == (0, 1)
    assert (used.returncode, json.loads(used.stdout)["items"]) == (0, [])
    assert [each["prefix"] for each in listed] == [key["prefix"]]
    assert key["key"] not in json.dumps(listed)
    assert revoked == [0, 1]


def test_a_key_is_rotated_and_a_leaked_one_found(dev: Dev):
    database = {"HAULIER_DATABASE_URL": dev.database_url}
    old = json.loads(dev.run("keys", "create", "--tenant", "dev", "--role", "viewer", "--json", **database).stdout)
    (dev.directory / "leak").mkdir()
    (dev.directory / "leak" / "notes.txt").write_text(f"first line\nKEY={old['key']}\n")

    new = json.loads(dev.run("keys", "rotate", old["prefix"], "--overlap", "0", "--reason", "leaked", "--json", **database).stdout)
    again = dev.run("keys", "rotate", old["prefix"], **database)
    used = dev.run("jobs", "list", HAULIER_URL=dev.announced["url"], HAULIER_API_KEY=new["key"])
    leaked = dev.run("keys", "scan", "leak", "--json")
    (dev.directory / "clean.txt").write_text(f"{old['key'][:-1]} is cut off\n")
    clean = dev.run("keys", "scan", "clean.txt")
    nowhere = dev.run("keys", "scan", "no-such-file")

    assert (new["role"], new["tenant"], used.returncode, again.returncode) == ("viewer", "dev", 0, 1)
    assert (leaked.returncode, clean.returncode, nowhere.returncode) == (1, 0, 2)
    assert json.loads(leaked.stdout)["items"] == [{"file": "leak/notes.txt", "line": 2, "prefix": old["prefix"]}]
    assert old["key"] not in leaked.stdout + leaked.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create", "--role", "king"), "--role"),
        (("keys", "create", "--role", "platform", "--tenant", "dev"), "--tenant"),
        (("keys", "create", "--role", "admin"), "--tenant"),
        (("tenants", "create", "Not A Slug"), "slug"),
    ],
)
def test_a_key_or_tenant_that_cannot_be_is_wrong_use(dev: Dev, arguments: tuple[str, ...], said: str):
    done = dev.run(*arguments, HAULIER_DATABASE_URL=dev.database_url)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("serve",), "HAULIER_DATABASE_URL"),
        (("relay",), "HAULIER_BROKER_URL"),
        (("work",), "HAULIER_BROKER_URL"),
        (("upkeep",), "HAULIER_BROKER_URL"),
        (("migrate",), "HAULIER_DATABASE_URL"),
        (("check",), "HAULIER_DATABASE_URL"),
        (("keys", "list"), "HAULIER_DATABASE_URL"),
        (("jobs", "list"), "HAULIER_URL"),
    ],
)
def test_what_is_not_configured_is_named(tmp_path: Path, arguments: tuple[str, ...], missing: str):
    done = haulier(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert missing in done.stderr


def test_every_wrong_setting_is_named_at_once(tmp_path: Path):
    done = haulier("check", cwd=tmp_path, HAULIER_PORT="many", HAULIER_DATABASE_URL="mysql://x")

    assert done.returncode == 2
    assert "HAULIER_PORT" in done.stderr
    assert "HAULIER_DATABASE_URL" in done.stderr


def test_the_audit_is_listed_and_its_seals_are_verified(dev: Dev):
    """Upkeep seals by itself; what is changed behind its back is named; an anchor is what an earlier verify printed."""
    database = {"HAULIER_DATABASE_URL": dev.database_url}
    key = json.loads(dev.run("keys", "create", "--tenant", "dev", "--role", "viewer", "--json", **database).stdout)
    dev.run("keys", "revoke", key["prefix"], "--reason", "a test", **database)
    ours = ("audit", "list", "--target", key["prefix"])

    eventually(lambda: all(each["seal"] for each in dev.ask(*ours)["items"]), 30, dev.log)
    shown = dev.run(*ours)
    verified = dev.run("audit", "verify", **database)
    told = dev.run("audit", "verify", "--json", **database).stdout
    (dev.directory / "anchor.json").write_text(told)
    anchored = dev.run("audit", "verify", "--anchor", "anchor.json", **database)
    refused = dev.run("audit", "verify", "--anchor", "dev.log", **database)
    with psycopg.connect(dev.database_url, autocommit=True) as connection:
        change = "update haulier.audit set reason = %s where target = %s and action = 'key.revoke'"
        connection.execute(change, ("another one", key["prefix"]))
        tampered = dev.run("audit", "verify", **database)
        connection.execute(change, ("a test", key["prefix"]))

    assert [each["action"] for each in dev.ask(*ours)["items"]] == ["key.revoke", "key.create"]
    assert all(word in shown.stdout for word in ("key.revoke", "a test", key["prefix"]))
    assert (verified.returncode, anchored.returncode, refused.returncode, tampered.returncode) == (0, 0, 2, 1), (
        verified.stderr + anchored.stderr
    )
    assert [each["tenant"] for each in json.loads(told)["chains"]].count("dev") == 1
    assert json.loads(told)["flaws"] == []
    assert "the record or its seal was changed" in tampered.stderr
    assert "1 flaw(s)" in tampered.stderr
