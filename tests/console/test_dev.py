"""`haulier dev`: it comes, tells where it is, survives what is killed, goes on where it was, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import httpx2
import psutil
import pytest

from config.settings import Settings
from console.dev.surroundings import receivers
from pipelines.orders.place import PlaceOrder
from tests.console.running import Dev, running_dev
from tests.crash.rig import eventually
from tests.webhooks.receiver import receiving

SIX_BY_THREE = '{"dividend": 6, "divisor": 3}'


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that lets the waiting jobs through once it is there."""
    return tmp_path / "gate"


def test_it_tells_where_it_is_and_gives_first_keys(dev: Dev):
    announced = dev.announced

    assert announced.keys() == {"url", "console_url", "tenant", "keys"}
    assert announced["keys"].keys() == {"platform", "admin", "operator", "submitter"}
    assert stat.S_IMODE((dev.data / "dev.json").stat().st_mode) == 0o600
    assert all(said in dev.log() for said in (announced["url"], announced["console_url"], *announced["keys"].values()))


def test_a_second_one_in_the_same_directory_is_refused(dev: Dev):
    second = dev.run("dev", "--port", "0")

    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    assert dev.ask("jobs", "list")["next_cursor"] is None


def test_a_port_that_is_taken_is_refused_before_anything_starts(dev: Dev):
    port = dev.announced["url"].rpartition(":")[2]

    second = dev.run("dev", "--data-dir", "another", "--port", port)

    assert second.returncode == 1
    assert "choose another with --port" in second.stderr


def test_a_child_that_is_killed_is_replaced_and_its_job_runs_again(gate: Path):
    with running_dev() as dev:
        job_id = dev.submit("test.await_file", {"path": str(gate)})
        dev.wait_for(job_id, "running")

        (child,) = dev.processes("console.dev.child")
        child.kill()
        gate.touch()
        job = dev.wait_for(job_id, "succeeded")

    assert job["attempt"] == 2


def test_a_job_that_kills_its_process_ends_dead_and_the_others_succeed():
    with running_dev() as dev:
        guilty = dev.submit("test.crash", {})
        others = [dev.submit("test.divide", {"dividend": n, "divisor": 1}) for n in range(20)]

        dead = dev.wait_for(guilty, "dead")
        done = [dev.wait_for(job_id, "succeeded") for job_id in others]

    assert dead["reason"] == "crashed"
    assert {job["failures"] for job in done} == {0}


def test_after_a_kill_it_goes_on_where_it_was(gate: Path):
    with running_dev() as dev:
        before = dev.announced
        held = dev.submit("test.await_file", {"path": str(gate)})
        dev.wait_for(held, "running")
        waiting = dev.submit("test.divide", {"dividend": 4, "divisor": 2}, delay=5)

        dev.kill()
        dev.start()
        gate.touch()
        done = [dev.wait_for(job_id, "succeeded") for job_id in (held, waiting)]

        assert dev.announced["keys"] == before["keys"]
        assert [job["failures"] for job in done] == [0, 0]


def test_after_a_stop_it_goes_on_where_it_was():
    with running_dev() as dev:
        keys = dev.announced["keys"]
        job_id = dev.submit("test.divide", {"dividend": 4, "divisor": 2}, delay=3600)

        assert dev.stop(signal.SIGINT) == 0
        assert not (dev.data / "dev.json").exists()
        dev.start()

        assert dev.announced["keys"] == keys
        assert dev.job(job_id)["state"] == "scheduled"


def test_a_postgres_that_is_killed_is_started_again():
    with running_dev() as dev:
        postmaster = int((dev.data / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

        psutil.Process(postmaster).kill()
        eventually(lambda: "postgres died" in dev.log(), 20, dev.log)
        eventually(lambda: dev.run("submit", "test.divide", "--payload", SIX_BY_THREE, "--wait").returncode == 0, 60, dev.log)


def test_a_kill_leaves_nothing_running():
    with running_dev() as dev:
        dev.kill()

        eventually(lambda: not dev.processes(), 30, lambda: str(dev.processes()))


def test_rabbitmq_carries_the_messages_where_it_is_configured(rabbitmq_url: str):
    with running_dev(HAULIER_BROKER_URL=rabbitmq_url) as dev:
        job_id = dev.submit("test.divide", {"dividend": 4, "divisor": 2})
        dev.wait_for(job_id, "succeeded")
        checked = dev.run("check", "--json", HAULIER_BROKER_URL=rabbitmq_url, HAULIER_DATABASE_URL=dev.database_url)

    found = {each["name"]: each["ok"] for each in json.loads(checked.stdout)["checks"]}
    assert found == {"database": True, "account": False, "broker": True}  # dev's own is a superuser's, which is for dev alone


def add_webhook(dev: Dev, url: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {dev.announced['keys']['admin']}"}
    wish = {"url": url, "events": ["job.succeeded"]}
    return httpx2.post(f"{dev.announced['url']}/v1/webhooks", json=wish, headers=headers, trust_env=False, timeout=30)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_receiver_of_webhooks_may_be_on_this_machine(dev: Dev, host: str):
    with receiving() as receiver:
        made = add_webhook(dev, f"http://{host}:{receiver.port}/hook")
        dev.submit("test.divide", {"dividend": 6, "divisor": 3})

        eventually(lambda: receiver.at("/hook"), 30, dev.log)

    assert made.status_code == 201


def test_where_receivers_may_be_is_as_configured_if_it_is():
    with running_dev(HAULIER_WEBHOOK_NETWORKS="", HAULIER_WEBHOOK_HTTP="false") as dev:
        refused = [add_webhook(dev, url) for url in ("https://127.0.0.1/hook", "http://hooks.example.com/hook")]

    assert [answer.status_code for answer in refused] == [422, 422]


def test_only_dev_sets_what_it_allows_and_only_for_its_child(monkeypatch: pytest.MonkeyPatch):
    for name in ("HAULIER_WEBHOOK_NETWORKS", "HAULIER_WEBHOOK_HTTP"):
        monkeypatch.delenv(name, raising=False)

    allowed = receivers(Settings())  # pyright: ignore[reportCallIssue]

    assert allowed.keys() == {"HAULIER_WEBHOOK_NETWORKS", "HAULIER_WEBHOOK_HTTP"}
    assert not allowed.keys() & os.environ.keys()
    assert (Settings().webhook_networks, Settings().webhook_http) == ("", False)  # pyright: ignore[reportCallIssue]


def test_the_shipped_commands_work_as_their_examples_say():
    """A gateway, a carrier and a stocked shop come with it, so what /docs shows can be tried as it stands."""
    with running_dev(HAULIER_HANDLERS="pipelines.table:HANDLERS") as dev:
        job_id = dev.submit("orders.place", PlaceOrder.example)

        eventually(lambda: dev.job(job_id)["family"]["state"] != "active", 60, dev.log)

        assert dev.job(job_id)["family"] == {"state": "succeeded", "counts": {"succeeded": 4}}
