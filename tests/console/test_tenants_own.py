"""`haulier webhooks` and `haulier limits`: what a tenant's admin sets, and what the platform sets for a tenant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.console.running import Dev
from tests.crash.rig import eventually
from tests.webhooks.receiver import Receiver, receiving

UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def add(dev: Dev, receiver: Receiver, path: str) -> Any:
    return dev.ask("webhooks", "create", f"{receiver.url}{path}", "--event", "job.succeeded", "--command", "test.divide", "--name", "ours")


def platform(dev: Dev) -> dict[str, str]:
    return {"HAULIER_URL": dev.announced["url"], "HAULIER_API_KEY": dev.announced["keys"]["platform"]}


def test_a_webhook_is_made_tested_told_and_told_again(dev: Dev, receiver: Receiver):
    webhook = add(dev, receiver, "/hook")

    tested = dev.ask("webhooks", "test", webhook["id"], "--wait")
    job_id = dev.submit("test.divide", {"dividend": 6, "divisor": 3})
    eventually(lambda: len(receiver.at("/hook")) == 2, 30, dev.log)
    eventually(lambda: len(dev.ask("webhooks", "deliveries", webhook["id"], "--state", "delivered")["items"]) == 2, 30, dev.log)
    told = dev.ask("webhooks", "deliveries", webhook["id"])["items"][0]
    one = dev.ask("webhooks", "redeliver", webhook["id"], told["id"])
    eventually(lambda: len(receiver.at("/hook")) == 3, 30, dev.log)
    eventually(lambda: len(dev.ask("webhooks", "deliveries", webhook["id"], "--state", "delivered")["items"]) == 2, 30, dev.log)
    every = dev.ask("webhooks", "redeliver", webhook["id"], "--since", "2026-01-01T00:00:00Z", "--state", "delivered")
    eventually(lambda: len(receiver.at("/hook")) == 5, 30, dev.log)

    assert webhook["secret"].startswith("whsec_")
    assert (tested["event"], tested["state"], tested["attempts"][0]["status"]) == ("webhook.test", "delivered", 204)
    assert (told["job_id"], one["id"]) == (job_id, told["id"])
    assert every == {"redelivered": 2, "next_since": None}
    shown = dev.run("webhooks", "show", webhook["id"])
    assert all(word in shown.stdout for word in ("/hook", "webhook.test", job_id, "the receiver answered 204"))
    assert webhook["secret"] not in shown.stdout
    assert webhook["id"] in dev.run("webhooks", "list").stdout


def test_a_test_that_the_receiver_does_not_take_ends_with_status_1(dev: Dev, receiver: Receiver):
    receiver.answer = lambda path, times: 500
    webhook = add(dev, receiver, "/broken")

    tested = dev.run("webhooks", "test", webhook["id"], "--wait")

    assert (tested.returncode, len(receiver.at("/broken"))) == (1, 1)
    assert "the receiver answered 500" in tested.stdout


def test_a_webhook_is_switched_off_and_on_given_a_new_secret_and_deleted(dev: Dev, receiver: Receiver):
    webhook = add(dev, receiver, "/switched")
    shown = lambda: dev.ask("webhooks", "show", webhook["id"])["enabled"]  # noqa: E731

    off, disabled = dev.run("webhooks", "disable", webhook["id"]), shown()
    on, enabled = dev.run("webhooks", "enable", webhook["id"]), shown()
    rotated = dev.ask("webhooks", "rotate", webhook["id"], "--overlap", "0")
    deleted = dev.run("webhooks", "delete", webhook["id"])
    gone = dev.run("webhooks", "show", webhook["id"])

    assert (off.stdout, disabled) == (f"webhook {webhook['id']} is disabled\n", False)
    assert (on.stdout, enabled) == (f"webhook {webhook['id']} is enabled\n", True)
    assert rotated["secret"] != webhook["secret"]
    assert (deleted.returncode, gone.returncode) == (0, 1)


def test_a_platform_key_says_whose_webhooks_it_means(dev: Dev, receiver: Receiver):
    webhook = add(dev, receiver, "/theirs")

    nobodys = dev.run("webhooks", "list", **platform(dev))
    listed = dev.run("webhooks", "list", "--tenant", "dev", "--json", **platform(dev))
    disabled = dev.run("webhooks", "disable", webhook["id"], "--tenant", "dev", **platform(dev))

    assert (nobodys.returncode, "?tenant=" in nobodys.stderr) == (2, True)
    assert webhook["id"] in [each["id"] for each in json.loads(listed.stdout)["items"]]
    assert (disabled.returncode, dev.ask("webhooks", "show", webhook["id"])["enabled"]) == (0, False)


def test_limits_are_granted_tightened_and_taken_away(dev: Dev):
    rate = {"rate": 5000.0, "burst": 1000}

    granted = dev.run("limits", "set", "--rate", "5000", "--burst", "1000", "--tenant", "dev", "--json", **platform(dev))
    own = dev.ask("limits", "set", "--key-rate", "2000", "--key-burst", "900", "--open-jobs", "100000")
    shown, for_people = dev.ask("limits", "show"), dev.run("limits", "show").stdout
    taken = [
        dev.run("limits", "set", "--none").returncode,
        dev.run("limits", "set", "--none", "--tenant", "dev", **platform(dev)).returncode,
    ]

    assert json.loads(granted.stdout)["granted"]["submissions"] == rate
    assert own["own"] == {"submissions": None, "each_key": {"rate": 2000.0, "burst": 900}, "open_jobs": 100000}
    assert shown["holds"] == own["own"] | {"submissions": rate}
    assert all(said in for_people for said in ("5000 a second, 1000 at once", "100000", "no limit"))
    assert taken == [0, 0]
    assert dev.ask("limits", "show")["holds"] == dict.fromkeys(("submissions", "each_key", "open_jobs"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("webhooks", "create", "https://10.0.0.1/", "--event", "job.dead"), "/url"),
        (("webhooks", "create", "https://hooks.example.com/"), "--event"),
        (("webhooks", "create", "https://hooks.example.com/", "--event", "job.born"), "/events/0"),
        (("webhooks", "redeliver", UNKNOWN_ID), "--since"),
        (("webhooks", "redeliver", UNKNOWN_ID, UNKNOWN_ID, "--since", "2026-01-01T00:00:00Z"), "--since"),
        (("webhooks", "redeliver", UNKNOWN_ID, UNKNOWN_ID, "--state", "failed"), "--since"),
        (("webhooks", "redeliver", UNKNOWN_ID, "--since", "yesterday"), "/since"),
        (("webhooks", "deliveries", UNKNOWN_ID, "--state", "lost"), "state"),
        (("webhooks", "show", "17"), "UUID"),
        (("limits", "set"), "--none"),
        (("limits", "set", "--none", "--open-jobs", "1"), "--none"),
        (("limits", "set", "--rate", "5"), "--burst"),
        (("limits", "set", "--key-burst", "5"), "--key-rate"),
        (("limits", "set", "--open-jobs", "0"), "/open_jobs"),
    ],
)
def test_wrong_use_ends_with_status_2(dev: Dev, arguments: tuple[str, ...], said: str):
    done = dev.run(*arguments)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("what", [("show",), ("test",), ("enable",), ("delete",), ("deliveries",), ("redeliver",), ("rotate",)])
def test_a_webhook_that_is_not_there_ends_with_status_1(dev: Dev, what: tuple[str, ...]):
    done = dev.run("webhooks", *what, UNKNOWN_ID, *(["--since", "2026-01-01T00:00:00Z"] if what == ("redeliver",) else []))

    assert (done.returncode, done.stdout) == (1, "")
    assert UNKNOWN_ID in done.stderr
