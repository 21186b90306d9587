"""What a team writes first (W4): a FastAPI route that sends a Dramatiq message. No outbox, no status, no idempotency; unconfirmed, as is Dramatiq's default.

As a contender, it starts that app beside plain Dramatiq's workers; `python -m benchmarks.fastapi_dramatiq PORT` is the app.
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI

from benchmarks.bare import Submission
from benchmarks.contender import Place, await_
from benchmarks.plain_dramatiq import PlainDramatiq
from benchmarks.processes import answers
from console.servers.process import free_port


class FastapiDramatiq(PlainDramatiq):
    key = ""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        place.processes.start("serve", [sys.executable, "-m", "benchmarks.fastapi_dramatiq", str(port)], self.environment)
        await_(lambda: answers(self.url), "the app to answer", place)


app = FastAPI()


@app.post("/v1/jobs", status_code=202)
def accept(wish: Submission) -> dict[str, str]:
    from benchmarks.plain import durable  # noqa: PLC0415  (its broker is the app's alone)

    return {"id": durable.send(**wish.payload.model_dump()).message_id}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
