"""Following events: all of them, each once, through whatever cuts there are; and an end where nothing more comes."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from ledger import attempts
from ledger.attempts import Lease
from ledger.connection import Database
from producers.client import Event, ProblemError, UnreachableError
from producers.client.following import Read, follow
from producers.client.operations import Answer, Ask, Lost, Pause, Reply
from producers.intake import streams
from tests.client.conftest import Call
from tests.following.test_streams import add_child_in
from tests.intake.conftest import Api, Worker, eventually, running_intake
from tests.intake.proxy import Proxy


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intake asks its clients to come again at once; what they do by themselves is 3 s."""
    monkeypatch.setattr(streams, "RETRY", 10)


def names(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.data["job_id"], event.data["seq"]) for event in events if event.kind != "progress"]


def test_a_job_is_followed_to_its_end_though_each_event_is_followed_by_a_cut(listen: Call, api: Api, worker: Worker, soon: None):
    job_id, proxy = api.accepted(), Proxy(api.url)

    def go_on(event: Event) -> None:
        if event.kind == "accepted":
            worker.begin(job_id)
        elif event.kind == "started":
            worker.complete(Lease(UUID(job_id), 1, worker.id), "null")
        proxy.cut()

    heard = listen("follow", job_id, each=go_on, url=proxy.url)
    proxy.close()

    assert [(event.id, event.kind) for event in heard] == [("1", "accepted"), ("2", "started"), ("3", "succeeded")]
    assert heard[0].data["command"] == "tests.note"


def test_one_goes_on_behind_what_was_had(listen: Call, api: Api, worker: Worker):
    job_id = api.accepted()
    worker.complete(worker.begin(job_id), "null")

    first = listen("follow", job_id, each=lambda event: event.kind == "started")
    rest = listen("follow", job_id, after=first[-1].id)

    assert [event.kind for event in first + rest] == ["accepted", "started", "succeeded"]
    assert listen("follow", job_id, after=rest[-1].id) == []


def test_a_dead_job_that_was_replayed_is_followed_beyond_its_death(listen: Call, api: Api, worker: Worker):
    job_id = api.accepted()
    worker.kill(job_id)
    api.post(f"/v1/dead-letters/{job_id}/replay", {"reason": "fixed"}, "operator")
    worker.complete(worker.begin(job_id, 2), "null")

    states = [event.data["state"] for event in listen("follow", job_id)]

    assert (states.count("dead"), states[-1]) == (1, "succeeded")


def test_a_family_is_followed_to_the_end_of_the_last_through_cuts(listen: Call, api: Api, database: Database, worker: Worker, soon: None):
    parent, proxy, children = api.accepted(), Proxy(api.url), list[str]()

    def go_on(event: Event) -> None:
        if event.kind == "accepted":
            lease = worker.begin(event.data["job_id"])
            with database.plumbing() as tx, tx.transaction():
                if len(children) < 3:
                    children.append(add_child_in(tx, parent))
                attempts.complete_many(tx, worker.id, [attempts.Success(lease.job_id, 1)])
        proxy.cut()

    heard = listen("follow", parent, until="family", each=go_on, url=proxy.url)
    proxy.close()

    assert len(names(heard)) == len(set(names(heard)))
    assert set(names(heard)) == {(job, seq) for job in (parent, *children) for seq in (1, 2, 3)}


def place_now(listen: Call, api: Api) -> str:
    """Where the tenant's events are: the id of one that has just happened."""
    heard = threading.Event()
    hand = threading.Thread(target=lambda: eventually(lambda: heard.wait(0.1) or not api.accepted()))
    hand.start()
    [event] = listen("events", each=lambda _: heard.set() or True)
    hand.join()
    return event.id


def run_jobs(api: Api, worker: Worker, ids: list[str], count: int) -> None:
    for _ in range(count):
        ids.append(api.accepted())
        worker.complete(worker.begin(ids[-1]), "null")


def of(ids: list[str], told: list[Event]) -> list[Event]:
    return [event for event in told if event.data["job_id"] in set(ids)]


def test_a_tenant_is_followed_without_gap_or_repeat_though_every_connection_is_torn(listen: Call, api: Api, worker: Worker, soon: None):
    """Wherever in a block: between two bytes of an id, behind it, in the middle of the data."""
    proxy, rng, ids = Proxy(api.url), random.Random(4), list[str]()
    proxy.tear(lambda: rng.randint(700, 5000))
    start = place_now(listen, api)
    hand = threading.Thread(target=run_jobs, args=(api, worker, ids, 40))
    hand.start()

    def is_last(event: Event) -> bool:
        return len(ids) == 40 and (event.data["job_id"], event.kind) == (ids[-1], "succeeded")

    told = of(ids, listen("events", after=start, each=is_last, url=proxy.url))
    proxy.close()
    hand.join()

    assert proxy.losses > 10
    assert sorted(names(told)) == sorted((job, seq) for job in ids for seq in (1, 2, 3))
    assert [seq for job in ids for each, seq in names(told) if each == job] == [1, 2, 3] * 40


def test_a_tenant_is_followed_from_one_intake_to_the_next(listen: Call, api: Api, database: Database, worker: Worker, soon: None):
    start, ids, more = place_now(listen, api), list[str](), list[str]()
    with running_intake(database) as first:
        proxy = Proxy(first.url)
        stop = threading.Event()

        def see(event: Event) -> bool:
            if event.data["job_id"] == ids[-1] and event.kind == "succeeded":
                stop.set()
            return len(more) == 5 and (event.data["job_id"], event.kind) == (more[-1], "succeeded")

        run_jobs(api, worker, ids, 5)
        with ThreadPoolExecutor(1) as hands:
            told = hands.submit(listen, "events", after=start, each=see, url=proxy.url)
            assert stop.wait(20)
            assert first.server
            first.server.should_exit = True
            run_jobs(api, worker, more, 5)
            proxy.lead_to(api.url)
            events = of(ids + more, told.result(30))
    proxy.close()

    assert sorted(names(events)) == sorted((job, seq) for job in ids + more for seq in (1, 2, 3))


def test_only_what_was_asked_for_is_told(listen: Call, api: Api, worker: Worker):
    start, ids = place_now(listen, api), list[str]()
    run_jobs(api, worker, ids, 2)

    told = listen("events", after=start, state="succeeded", each=lambda event: event.data["job_id"] == ids[1])

    assert [(event.data["job_id"], event.kind) for event in told] == [(each, "succeeded") for each in ids]


def test_what_cannot_be_followed_is_an_error_at_once(listen: Call, api: Api):
    with pytest.raises(ProblemError, match="404 not-found"):
        listen("follow", api.accepted(role="foreign"))
    with pytest.raises(ProblemError, match="400 malformed-request"):
        listen("events", after="nonsense")


def test_nobody_there_is_said_at_the_deadline(listen: Call):
    with pytest.raises(UnreachableError, match="GET /v1/events"):
        listen("events", url="http://127.0.0.1:9")


def test_what_is_no_stream_is_not_read_as_one():
    steps = follow("/v1/events", {}, None, 10)
    assert isinstance(next(steps), Ask)

    with pytest.raises(UnreachableError, match="expected text/event-stream, got text/html"):
        steps.send(Answer(200, {"content-type": "text/html"}, b""))


def test_one_comes_again_when_the_intake_asked_and_behind_the_last_that_was_whole():
    steps = follow("/v1/events", {"state": None}, None, 60)
    stream = Answer(200, {"content-type": "text/event-stream; charset=utf-8"}, b"")
    asked = next(steps)

    def send(*replies: Reply) -> list[object]:
        return [steps.send(reply) for reply in replies]

    _, event, again, pause = send(
        stream, b'retry: 200\n\nid: 5\nevent: started\ndata: {"state": "running"}\n\nid: 6\n', None, Lost(OSError(), reached=True)
    )
    first = steps.send(None)
    slower = steps.send(Lost(OSError(), reached=False))

    assert isinstance(asked, Ask)
    assert (asked.headers.get("last-event-id"), asked.query) == (None, {})
    assert event == Event("5", "started", {"state": "running"})
    assert isinstance(again, Read)
    assert isinstance(pause, Pause)
    assert 0.2 <= pause.seconds <= 0.3
    assert isinstance(first, Ask)
    assert first.headers["last-event-id"] == "5"
    assert isinstance(slower, Pause)
    assert slower.seconds >= 0.2


@pytest.mark.parametrize("state, step", [("running", Pause), ("succeeded", Ask)])
def test_a_stream_that_is_closed_is_asked_for_again_and_at_once_only_behind_an_end(state: str, step: type):
    steps = follow("/v1/events", {}, None, 60)
    next(steps)
    steps.send(Answer(200, {"content-type": "text/event-stream"}, b""))
    steps.send(b'id: 5\ndata: {"state": "%b"}\n\n' % state.encode())
    steps.send(None)

    assert isinstance(steps.send(None), step)
