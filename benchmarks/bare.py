"""What the intake is measured beside (W5): a FastAPI app that parses the same body and inserts one row with psycopg, and does nothing else.

As a contender, it starts that app; `python -m benchmarks.bare PORT`, with BENCH_DATABASE_URL, is the app.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import orjson
import psycopg
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.contender import Place, await_
from benchmarks.processes import answers
from console.servers.process import free_port

TABLE = "create table bare_jobs (id bigint generated always as identity primary key, command text not null, payload jsonb not null)"


class Bare:
    key = ""

    def __init__(self, place: Place) -> None:
        with psycopg.connect(place.database_url) as database:
            database.execute(TABLE)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        place.processes.start("serve", [sys.executable, "-m", "benchmarks.bare", str(port)], {"BENCH_DATABASE_URL": place.database_url})
        await_(lambda: answers(self.url), "the app to answer", place)

    def close(self) -> None: ...


app = FastAPI()
_local = threading.local()


class Payload(BaseModel):
    number: int
    account: int
    data: str


class Submission(BaseModel):
    command: str
    payload: Payload


def _connection() -> psycopg.Connection[Any]:
    """A connection for each thread, kept: cheaper than a pool's."""
    if not hasattr(_local, "connection"):
        _local.connection = psycopg.connect(os.environ["BENCH_DATABASE_URL"], autocommit=True)
    return _local.connection


@app.post("/v1/jobs", status_code=202)
def accept(wish: Submission) -> dict[str, int]:
    row = _connection().execute(
        "insert into bare_jobs (command, payload) values (%s, %s::jsonb) returning id",
        (wish.command, orjson.dumps(wish.payload.model_dump()).decode()),
    )
    return {"id": row.fetchall()[0][0]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
