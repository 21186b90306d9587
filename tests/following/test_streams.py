"""Server-Sent Events: all of one's own, each once, in an order that holds, from the ledger and whatever order it was committed in."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import httpx2
import psycopg
import pytest

from config.ids import uuid7
from console.servers.find import redis_server as find_redis
from console.servers.postgres import PostgresServer
from ledger import archive, attempts, following, jobs
from ledger.connection import Database
from ledger.following import NOTHING, Snapshot, Wanted
from ledger.jobs import Submission
from ledger.migrate import migrate
from ledger.roles import Role
from producers.intake import auth, streams, tail
from tests.following.conftest import Place, open_place
from tests.intake.conftest import Api, eventually, make_keys
from tests.intake.test_reading import add_child
from tests.servers import fresh_database

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    id: str | None
    kind: str | None
    data: Any
    comment: bool = False

    @property
    def name(self) -> tuple[str, int]:
        return self.data["job_id"], self.data["seq"]


class Follower:
    """A client of a stream: reads block by block, as browsers do."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.last_id: str | None = None
        self._lines = answer.iter_lines()

    def blocks(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                assert name not in fields
                fields[name] = value
                continue
            self.last_id = fields.get("id", self.last_id)
            yield Event(fields.get("id"), fields.get("event"), json.loads(fields["data"]) if "data" in fields else None, "" in fields)
            fields = {}

    def events(self) -> Iterator[Event]:
        return (block for block in self.blocks() if block.data is not None)

    def take(self, count: int) -> list[Event]:
        events = self.events()
        return [next(events) for _ in range(count)]


@contextmanager
def follow(api: Api, path: str, role: str = "viewer", last: str | None = None, client: httpx2.Client | None = None) -> Iterator[Follower]:
    headers = {"authorization": f"Bearer {api.keys[role]}", "accept": "text/event-stream", **({"last-event-id": last} if last else {})}
    with httpx2.Client(base_url=api.url, timeout=10) as own, (client or own).stream("GET", path, headers=headers) as answer:
        if answer.status_code == 200:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
        yield Follower(answer)


def read_all(api: Api, path: str, last: str | None = None, role: str = "viewer") -> list[Event]:
    """Of a stream that ends."""
    with follow(api, path, role, last) as follower:
        assert follower.answer.status_code in {200, 204}, follower.answer.read()
        return list(follower.events())


def submission(database: Database, api: Api) -> Submission:
    with database.plumbing() as tx:
        row = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchone()
    assert row
    return Submission(uuid7(), row[0], "tests.note", "notes", b'{"text": "x"}', 5)


def test_a_job_s_stream_tells_all_of_it_and_ends_with_it(place: Place):
    job_id = place.api.accepted()
    path = f"/v1/jobs/{job_id}/events"

    with follow(place.api, path) as follower:
        first = follower.take(1)
        lease = place.work.begin(job_id)
        second = follower.take(1)
        place.work.complete(lease)
        rest = list(follower.events())

    assert [(event.id, event.kind, event.data["state"]) for event in first + second + rest] == [
        ("1", "accepted", "queued"), ("2", "started", "running"), ("3", "succeeded", "succeeded"),
    ]  # fmt: skip
    [timeline, *_] = place.api.get(f"/v1/jobs/{job_id}/timeline").json()["items"]
    assert first[0].data == {"job_id": job_id, "root_id": job_id, "command": "tests.note", **timeline}
    with follow(place.api, path, last="3") as follower:
        assert follower.answer.status_code == 204
    assert [event.id for event in read_all(place.api, path)] == ["1", "2", "3"]


def test_a_stream_asks_its_client_to_come_again_soon(place: Place):
    with follow(place.api, "/v1/events") as follower:
        lines = [next(follower._lines) for _ in range(2)]

    assert lines[0].startswith("id: ")
    assert lines[1] == "retry: 3000"


def test_progress_is_shown_live_and_has_no_id(place: Place):
    job_id = place.api.accepted()
    lease = place.work.begin(job_id)

    with follow(place.api, f"/v1/jobs/{job_id}/events") as follower:
        follower.take(2)
        place.work.progress(lease, 3)
        [shown] = follower.take(1)
        place.work.complete(lease)
        rest = list(follower.events())

    assert (shown.id, shown.kind) == (None, "progress")
    assert shown.data == {"job_id": job_id, "attempt": 1, "done": 3, "total": 9, "message": ""}
    assert [event.kind for event in rest] == ["succeeded"]


def test_a_family_s_stream_tells_of_all_of_it_and_ends_with_the_last(place: Place):
    parent, stranger = place.api.accepted(), place.api.accepted()
    path = f"/v1/jobs/{parent}/events?family=true"

    with follow(place.api, path) as follower:
        seen = follower.take(1)
        lease = place.work.begin(parent)
        seen += follower.take(1)
        with place.database.plumbing() as tx, tx.transaction():
            child = add_child_in(tx, parent)
            attempts.complete_many(tx, lease.worker_id, [attempts.Success(lease.job_id, 1)])
        place.work.tell(parent)
        seen += follower.take(2)
        place.work.complete(place.work.begin(stranger))
        place.work.complete(place.work.begin(child))
        seen += list(follower.events())

    assert sorted(event.name for event in seen) == sorted([(parent, n) for n in (1, 2, 3)] + [(child, n) for n in (1, 2, 3)])
    assert [event.kind for event in seen][-2:] == ["started", "succeeded"]
    assert read_all(place.api, f"/v1/jobs/{child}/events?family=true")[0].name == (child, 1)
    with follow(place.api, path, last=seen[-1].id) as follower:
        assert follower.answer.status_code == 204


def add_child_in(tx: Any, parent: str) -> str:
    row = tx.execute("select tenant_id from haulier.jobs where id = %s", (parent,)).fetchone()
    child = Submission(uuid7(), row[0], "tests.note", "notes", b'{"text": "x"}', 5, parent_id=UUID(parent), root_id=UUID(parent))
    jobs.submit(tx, [child])
    return str(child.id)


def test_what_is_written_earlier_and_committed_later_is_told_all_the_same(place: Place):
    slow, quick = submission(place.database, place.api), submission(place.database, place.api)

    with follow(place.api, "/v1/events") as follower, psycopg.connect(place.database.url) as other:
        next(follower.blocks())
        jobs.submit(other, [slow])
        with place.database.plumbing() as tx:
            jobs.submit(tx, [quick])
        place.work.tell(str(quick.id))
        [first] = follower.take(1)  # and it does not wait for the one that is under way
        other.commit()
        with place.database.plumbing() as tx:
            rows = {row[0]: row[1:] for row in tx.execute("select job_id, at, xact from haulier.events where seq = 1")}
        place.work.tell(str(slow.id))
        [second] = follower.take(1)
    with follow(place.api, "/v1/events", last=first.id) as follower:
        [again] = follower.take(1)

    # The ids tell from when on, which may be another round's; what is told is the same.
    assert (first.name, second.name, again.name) == ((str(quick.id), 1), (str(slow.id), 1), second.name)
    assert again.data == second.data
    # A cursor on the time, or on the highest transaction, that had come to the quick one would have lost the slow one.
    assert rows[slow.id] < rows[quick.id]
    assert rows[slow.id][1] < rows[quick.id][1]


def test_going_on_after_any_event_gives_exactly_the_rest(place: Place):
    parent = place.api.accepted()
    with follow(place.api, "/v1/events") as follower, ExitStack() as stack:
        next(follower.blocks())
        start = follower.last_id
        hands = [stack.enter_context(psycopg.connect(place.database.url)) for _ in range(6)]
        for connection in hands:
            jobs.submit(connection, [submission(place.database, place.api) for _ in range(3)])
        lease = place.work.begin(parent)
        children = [str(add_child(place.database, parent)) for _ in range(3)]
        for connection in (hands[4], hands[1]):
            connection.commit()
        place.work.complete(lease)
        hands[3].commit()
        for child in children:
            place.work.complete(place.work.begin(child))
        for connection in (hands[5], hands[0]):
            connection.commit()
        hands[2].rollback()
        place.work.tell(parent)
        everything = follower.take(3 * 5 + 2 + 3 * 3)
    with follow(place.api, "/v1/events", last=start) as follower:
        at_once = follower.take(len(everything))

    assert sorted(event.name for event in at_once) == sorted(event.name for event in everything)
    markers: list[tuple[str, int]] = []
    for told in (everything, at_once):
        for at, event in enumerate(told):
            with follow(place.api, "/v1/events", last=event.id) as follower:
                rest = follower.take(len(told) - at - 1 + len(markers))
                marker = place.api.accepted(), 1
                [after] = follower.take(1)
            assert sorted(each.name for each in rest) == sorted([each.name for each in told[at + 1 :]] + markers)
            assert after.name == marker
            markers.append(marker)
    for path in (f"/v1/jobs/{parent}/events", f"/v1/jobs/{parent}/events?family=true"):
        whole = read_all(place.api, path)
        assert len(whole) == (12 if "family" in path else 3)
        for at, event in enumerate(whole):
            assert [each.name for each in read_all(place.api, path, event.id)] == [each.name for each in whole[at + 1 :]]


def test_a_tenant_s_stream_is_its_own_and_nobody_else_s(place: Place):
    slug, made = make_keys(place.database)
    other = Api(place.api.url, made, slug, place.api.server)
    dice = random.Random(8412)
    own: dict[str, set[str]] = {"mine": set(), "theirs": set()}

    with (
        follow(place.api, "/v1/events") as mine,
        follow(other, "/v1/events") as theirs,
        follow(place.api, "/v1/events?tenant=*", "platform") as everybody,
    ):
        for each in (mine, theirs, everybody):
            next(each.blocks())
        for _ in range(60):
            who = dice.choice(["mine", "theirs"])
            job_id = (place.api if who == "mine" else other).accepted()
            own[who].add(job_id)
            if dice.random() < 0.5:
                place.work.complete(place.work.begin(job_id))
        with place.database.plumbing() as tx:
            query = "select count(*) from haulier.events where job_id = any(%s)"
            counts = {who: tx.execute(query, ([UUID(job) for job in ids],)).fetchone()[0] for who, ids in own.items()}  # type: ignore[index]
        seen = {"mine": mine.take(counts["mine"]), "theirs": theirs.take(counts["theirs"])}
        markers = place.api.accepted(), other.accepted()
        ends = mine.take(1)[0].name, theirs.take(1)[0].name
        every = everybody.take(sum(counts.values()) + 2)

    for who, events in seen.items():
        assert {event.name[0] for event in events} == own[who]
        assert len({event.name for event in events}) == counts[who]
        assert all("tenant" not in event.data for event in events)
    assert ends == ((markers[0], 1), (markers[1], 1))
    assert {event.data["tenant"] for event in every} == {place.api.slug, slug}
    other.client.close()


def test_a_tenant_s_stream_may_be_of_one_command_and_of_some_states(place: Place):
    with follow(place.api, "/v1/events?state=succeeded&state=dead&command=tests.note") as follower:
        next(follower.blocks())
        place.work.worker.kill(place.api.accepted({"command": "tests.pay", "payload": {"lines": [], "token": "tok_1"}}))
        job_id = place.api.accepted()
        place.work.complete(place.work.begin(job_id))
        [event] = follower.take(1)

    assert event.name == (job_id, 3)
    assert place.api.get("/v1/events?state=nothing").status_code == 400


def test_job_and_family_are_read_from_the_archive_too(place: Place):
    parent = place.api.accepted()
    place.work.complete(place.work.begin(parent))
    child = str(add_child(place.database, parent))
    place.work.complete(place.work.begin(child))
    before = read_all(place.api, f"/v1/jobs/{parent}/events?family=true")
    with place.database.plumbing() as tx:
        archive.open_partitions(tx, datetime.now(UTC).date())
        tx.execute(
            "update haulier.jobs set submitted_at = now() - interval '1 day', finished_at = now() - interval '1 day' where root_id = %s",
            (parent,),
        )
        archive.archive(tx, timedelta(0), None, 100_000)
        assert tx.execute("select count(*) from haulier.archive where root_id = %s", (parent,)).fetchone() == (2,)

    after = read_all(place.api, f"/v1/jobs/{parent}/events?family=true")

    assert [event.name for event in after] == [event.name for event in before]
    assert len(after) == 6
    assert [event.name for event in read_all(place.api, f"/v1/jobs/{parent}/events?family=true", after[2].id)] == [
        e.name for e in after[3:]
    ]
    assert [event.data["seq"] for event in read_all(place.api, f"/v1/jobs/{parent}/events", "1")] == [2, 3]


def test_a_tenant_s_place_that_is_too_old_is_gone_and_another_s_is_refused(place: Place):
    with follow(place.api, "/v1/events") as follower:
        next(follower.blocks())
        last = follower.last_id
    assert last
    about = f"tenant {submission(place.database, place.api).tenant_id}"
    now = streams.Place.read(last, about)

    old = streams.Place(now.at - 3600, now.seen).write(about)
    ahead = streams.Place(now.at, Snapshot(now.seen.end + 10**9, now.seen.end + 10**9)).write(about)
    for role, given, status, kind in [
        ("viewer", old, 410, "gone"), ("viewer", ahead, 410, "gone"), ("foreign", last, 400, "malformed-request"),
        ("viewer", "17", 400, "malformed-request"), ("viewer", last[:-4], 400, "malformed-request"), ("viewer", "ä" * 5, 400, "malformed-request"),
    ]:  # fmt: skip
        headers = {"last-event-id": given.encode("latin-1"), "accept": "text/event-stream"}
        answer = place.api.get("/v1/events", role, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}"), given
    job_id = place.api.accepted()
    for given in ("x", "-1", "99999999999999999999", last):
        for query in ("", "?family=true"):
            assert place.api.get(f"/v1/jobs/{job_id}/events{query}", headers={"last-event-id": given}).status_code == 400
    assert place.api.get(f"/v1/jobs/{job_id}/events", "foreign").status_code == 404


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [("/v1/events", "application/json", 406), ("/v1/events", "text/html", 406), ("/v1/jobs", "text/event-stream", 406)],
)
def test_a_stream_is_for_those_who_accept_one(place: Place, path: str, accept: str, status: int):
    answer = place.api.get(path, headers={"accept": accept})

    assert (answer.status_code, answer.json()["type"]) == (status, "/problems/not-acceptable")
    for taken in ("text/event-stream", "text/*", "*/*"):
        headers = {"authorization": f"Bearer {place.api.keys['viewer']}", "accept": taken}
        with place.api.client.stream("GET", "/v1/events", headers=headers) as followed:
            assert followed.status_code == 200


def test_while_nothing_comes_a_sign_of_life_says_how_far_it_is(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "HEARTBEAT", 0.0)
    monkeypatch.setattr(streams, "KEY_KEEPS", 0.05)

    with follow(place.api, "/v1/events?state=cancelled") as follower:
        next(follower.blocks())
        first = follower.last_id
        job_id = place.api.accepted()  # which this stream does not show
        later = next(block for block in follower.blocks() if block.comment and block.id != first)
    with follow(place.api, "/v1/events", last=later.id) as follower:
        next(follower.blocks())
        marker = place.api.accepted()
        [event] = follower.take(1)

    assert event.name in {(marker, 1), (job_id, 1)}


def test_who_does_not_keep_up_is_cut_off_and_goes_on_later(place: Place, monkeypatch: pytest.MonkeyPatch):
    with follow(place.api, "/v1/events") as follower:
        next(follower.blocks())
        monkeypatch.setattr(tail, "MOST_BEHIND", 0)
        job_id = place.api.accepted()
        ended = list(follower.events())
    monkeypatch.undo()
    with follow(place.api, "/v1/events", last=follower.last_id) as follower:
        [event] = follower.take(1)

    assert ended == []
    assert event.name == (job_id, 1)


def test_a_revoked_key_s_streams_end(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "KEY_KEEPS", 0.1)
    with follow(place.api, "/v1/events") as follower:
        next(follower.blocks())
        revoke(place, "viewer")

        assert list(follower.events()) == []


def test_whatever_a_revoked_key_has_open_ends_within_five_seconds(place: Place):
    """Another stream of the key keeps it known, and an event shortly before the look at it puts that off."""
    with follow(place.api, "/v1/events") as first, ThreadPoolExecutor(2) as hands:
        next(first.blocks())
        opened = time.monotonic()
        eventually(lambda: time.monotonic() - opened > streams.KEY_KEEPS - 0.9)
        with follow(place.api, "/v1/events") as second:
            next(second.blocks())
            eventually(lambda: time.monotonic() - opened > streams.KEY_KEEPS + 0.1)  # just now, the first has looked
            revoke(place, "viewer")
            revoked = time.monotonic()
            ends = [hands.submit(lambda follower=each: (list(follower.events()), time.monotonic())) for each in (first, second)]
            eventually(lambda: time.monotonic() - revoked > 3.7)
            place.api.accepted()

            assert max(end.result(20)[1] for end in ends) - revoked < 5
    assert auth.KEY_IS_KNOWN + auth.KEY_KEEPS < 5


def test_a_key_that_is_revoked_meanwhile_is_not_told_all_that_it_has_missed(place: Place, monkeypatch: pytest.MonkeyPatch):
    with follow(place.api, "/v1/events") as follower:
        next(follower.blocks())
    for _ in range(20):
        place.api.accepted()
    parts, between = list[int](), following.between

    def revoke_meanwhile(tx: Any, **wanted: Any) -> Any:
        parts.append(len(parts))
        if len(parts) == 5:
            revoke(place, "viewer")
            assert place.api.server
            place.api.server._parts.keyring._known.clear()  # as two seconds later
        return between(tx, **wanted)

    monkeypatch.setattr(following, "STEP", 1)
    monkeypatch.setattr(following, "between", revoke_meanwhile)
    monkeypatch.setattr(streams, "KEY_KEEPS", 0.0)
    with follow(place.api, "/v1/events", last=follower.last_id) as follower:
        told = list(follower.events())

    assert len(parts) == 5
    assert len(told) < 6


def revoke(place: Place, role: str) -> None:
    with place.database.plumbing() as tx:
        tx.execute("update haulier.api_keys set revoked_at = now() where prefix = %s", (place.api.keys[role].split("_")[1],))


def test_streams_have_a_limit_for_each_tenant_and_for_the_process(postgres_server: PostgresServer):
    with fresh_database(postgres_server, "template0") as url, find_redis() as redis:
        migrate(url)
        with open_place(url, redis, most_waiting_of_a_tenant=2, most_waiting=3) as room:
            room.api.slug, room.api.keys = make_keys(room.database)
            own = f"/v1/jobs/{room.api.accepted()}/events"
            assert room.api.server
            held = room.api.server._parts.hub._by_tenant.total
            with follow(room.api, "/v1/events") as first, follow(room.api, own, "submitter"):
                refused = room.api.get("/v1/events", "operator")
                waits = room.api.get(own.removesuffix("/events"), headers={"prefer": "wait=20"})
                with follow(room.api, "/v1/events?tenant=*", "platform") as third:
                    full = room.api.get("/v1/events", "foreign")
                    told = [next(each.blocks()) for each in (first, third)]
                eventually(lambda: held() == 2)
                with follow(room.api, "/v1/events", "foreign") as instead:
                    assert instead.answer.status_code == 200
            eventually(lambda: held() == 0)
            with follow(room.api, "/v1/events") as again:
                assert again.answer.status_code == 200

    for answer in (refused, waits):
        assert (answer.status_code, answer.json()["type"], answer.headers["retry-after"]) == (429, "/problems/too-many-waiting", "2")
    assert (full.status_code, full.json()["type"], full.headers["retry-after"]) == (503, "/problems/unavailable", "2")
    assert len(told) == 2


def test_a_lost_hint_costs_a_moment_and_a_leaving_process_ends_its_streams(postgres_server: PostgresServer):
    with fresh_database(postgres_server, "template0") as url, find_redis() as redis:
        migrate(url)
        with open_place(url, redis, look_again=0.2, drain=60) as room:
            room.api.slug, room.api.keys = make_keys(room.database)
            redis.kill()
            with follow(room.api, "/v1/events") as tenants, follow(room.api, f"/v1/jobs/{room.api.accepted()}/events") as jobs_own:
                next(tenants.blocks())
                [event] = tenants.take(1)
                assert room.api.server
                room.api.server.stop()

                assert event.kind == "accepted"
                assert list(tenants.events()) == []
                assert [each.kind for each in jobs_own.events()] == ["accepted"]
            redis.start()


def test_streams_give_back_what_they_held(place: Place):
    assert place.api.server
    tail_ = place.api.server._parts.tail
    with follow(place.api, "/v1/events"), follow(place.api, f"/v1/jobs/{place.api.accepted()}/events"):
        assert sum(map(len, tail_._readers.values())) >= 2

    eventually(lambda: not tail_._readers and place.held() == 0)


@pytest.mark.every_postgres
def test_the_tail_is_read_by_its_index_at_any_size(database_url: str):
    database = Database(database_url, size=1)

    def follow(call: Callable[[Any], T]) -> T:
        """As an intake's tail does it."""
        with database.transaction(Role.OPERATOR, None) as tx:
            return call(tx)

    def rows_read() -> int:
        for _ in range(2):
            follow(lambda own: own.execute("select pg_stat_force_next_flush()"))
        query = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relid = 'haulier.events'::regclass"
        return tx.execute(query).fetchone()[0]  # pyright: ignore[reportOptionalSubscript]

    with database.plumbing() as tx:
        tx.execute("vacuum analyze haulier.events, haulier.jobs")  # it says that they are empty, and is believed
        tx.execute("insert into haulier.tenants (slug, name) values ('a', 'A')")
        ids = [uuid7() for _ in range(3)]
        for _ in range(8):  # the sixth time is the first with a plan that is kept
            follow(lambda own: following.between(own, NOTHING, following.now(own)[0], Wanted(None)))
        tx.execute(
            "insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt, xact)"
            " select gen_random_uuid(), 1, 1, 'accepted', 'queued', 0, 3 + n / 1000 from generate_series(1, 200000) as n"
        )
        tx.execute("select brin_summarize_new_values('haulier.events_by_transaction')")
        seen = follow(following.now)[0]
        jobs.submit(tx, [Submission(id_, 1, "tests.note", "notes", b"{}", 5) for id_ in ids])
        before = rows_read()

        found, _ = follow(lambda own: following.between(own, seen, following.now(own)[0], Wanted([1])))

        assert {event.job_id for event in found} == set(ids)
        assert rows_read() - before < 10_000
    database.close()
