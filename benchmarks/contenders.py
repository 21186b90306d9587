"""Who takes part in what, and with how many jobs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.bare import Bare
from benchmarks.contender import Contender, Place, Served
from benchmarks.fastapi_dramatiq import FastapiDramatiq
from benchmarks.haulier import Haulier
from benchmarks.peers.contender import PeerContender
from benchmarks.peers.table import PEERS
from benchmarks.plain_dramatiq import PlainDramatiq

#: By workload: what it is, as its table says.
WORKLOADS = {
    "w1": "a backlog of no-ops is drained",
    "w2": "a backlog of durable effects is drained: a row and an update, idempotent; neighbours never meet on an account",
    "w2r": "as W2, on a thousand accounts drawn at random, so that jobs meet on rows",
    "w3": "one durable effect at a time on an idle system: from before it is submitted to its effect's commit",
    "w4": "HTTP in, effect committed: 32 connections, everything on this machine",
    "w5": "single submissions over HTTP: 32 connections, one process that takes them",
}
#: Enough for some seconds of those that are fast.
JOBS = {"w1": 30_000, "w2": 30_000, "w2r": 30_000, "w3": 200, "w4": 10_000, "w5": 10_000}

_PEERS: dict[str, Callable[[Place], Contender]] = {name: partial(PeerContender, name=name) for name in PEERS}
_THREE_WAYS: dict[str, Callable[[Place], Contender]] = {
    "haulier": Haulier,
    "haulier, sharing": partial(Haulier, durable="bench.shared"),
    "haulier, many": partial(Haulier, durable="bench.many"),
}
_DRAMATIQ: dict[str, Callable[[Place], Contender]] = {
    "dramatiq": PlainDramatiq,
    "dramatiq, prefetch 256": partial(PlainDramatiq, prefetch=256),
}

CONTENDERS: dict[str, dict[str, Callable[[Place], Contender | Served]]] = {
    "w1": {"haulier": Haulier, **_DRAMATIQ, **_PEERS},
    "w2": {**_THREE_WAYS, **_DRAMATIQ, "dramatiq, pooled": partial(PlainDramatiq, pooled=True), **_PEERS},
    "w2r": {**_THREE_WAYS, "dramatiq": PlainDramatiq},
    "w3": {"haulier": partial(Haulier, over_http=True), "dramatiq": PlainDramatiq, **_PEERS},
    "w4": {"haulier": partial(Haulier, over_http=True), "fastapi + dramatiq": FastapiDramatiq},
    "w5": {"haulier": partial(Haulier, works=False, over_http=True), "fastapi + psycopg": Bare},
}


def jobs_of(workload: str, name: str, wanted: int | None) -> int:
    """How many this one gets: `wanted`, else the workload's number; a slow peer its share, but for W3, where jobs come one at a time."""
    share = PEERS[name].share if name in PEERS and workload != "w3" else 1
    return int((wanted or JOBS[workload]) * share)
