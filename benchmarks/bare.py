"""What the intake is measured beside (W5): a FastAPI app that parses the same body and inserts one row with psycopg, and does nothing else.

`python -m benchmarks.bare PORT`, with BENCH_DATABASE_URL.
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

TABLE = "create table bare_jobs (id bigint generated always as identity primary key, command text not null, payload jsonb not null)"

app = FastAPI()
_local = threading.local()


class Payload(BaseModel):
    number: int
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
