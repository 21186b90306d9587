"""The intake as commands see it: over HTTP, with the key of HAULIER_API_KEY, or those of a `haulier dev` that runs here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import orjson

from console.failing import FailedError, WrongUseError
from console.printing import complain
from producers import client
from producers.client import Batch, CallError, ProblemError, operations
from producers.client.operations import FINAL, Ask, Job, Steps

__all__ = ["FINAL", "Client", "connect", "explain"]

T = TypeVar("T")

#: Where `haulier dev` lives unless it is told otherwise.
DEV_DIRECTORY = Path(".haulier/dev")
#: Answers that mean that the request itself was wrong, whatever the state of things.
WRONG = {400, 413, 422}
#: Seconds that a command goes on trying where nobody answers; somebody sits before it. One that waits for a job's end has more patience.
TRYING = 3.0
PATIENCE = 60.0
#: Seconds after which one who watches is shown the family's numbers anew.
LOOK_EVERY = 2


class Client(client.Client):
    """The client library for commands: raises FailedError or WrongUseError, with what the intake says, for every answer that is an error."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(url, key, deadline=TRYING)
        self.url = url

    def get(self, path: str, **query: Any) -> Any:
        return self._run(operations.read(path, TRYING, **query))

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self.send("POST", path, {} if body is None else body, **query)

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        """A change; the answer as JSON, None where it has no body."""
        asked = {name: value for name, value in query.items() if value is not None}
        own = {"content-type": "application/json", **(headers or {})}
        ask = Ask(method, path, asked, own, None if body is None else orjson.dumps(body), repeatable=False)
        answer = self._run(operations.call(ask, TRYING))
        return orjson.loads(answer.body) if answer.body else None

    def validate(self, command: str, payload: Mapping[str, Any], **fields: Any) -> Any:
        """What would be submitted; nothing is stored."""
        wish = orjson.dumps(operations.wish_of(command, payload, fields))
        ask = Ask("POST", "/v1/jobs", {"validate_only": "true"}, {"content-type": "application/json"}, wish)
        return orjson.loads(self._run(operations.call(ask, TRYING)).body)

    def submit_many(self, wishes: Sequence[Mapping[str, Any]]) -> Batch:
        """In as many requests, and as much time, as the tenant's limits want."""
        items: list[dict[str, Any]] = []
        while True:
            try:
                return Batch(items + super()._run(operations.submit_many(wishes, TRYING)).items)
            except CallError as error:
                items += error.batch.items
                wishes = error.rest
                if not isinstance(error, ProblemError) or error.status != 429:
                    raise self._explain(error) from None
                seconds = error.retry_after or 1
            complain(f"{len(items)} are answered for, {len(wishes)} wait for a limit: on in {seconds:g} s")
            time.sleep(seconds)

    def wait_for_end(self, job_id: UUID | str) -> Job:
        """The job once it has ended, however long that takes."""
        while True:
            try:
                return self.wait(job_id, timeout=PATIENCE)
            except TimeoutError:
                continue

    def watch(self, job_id: UUID | str) -> Iterator[Job]:
        """The job, each time that it differs from the last time; without an end."""
        headers: dict[str, str] = {}
        while True:
            answer = self._run(
                operations.call(Ask("GET", f"/v1/jobs/{job_id}", {"until": "family"}, headers), PATIENCE if headers else TRYING)
            )
            if answer.status != 304:
                yield orjson.loads(answer.body)
                headers = {"prefer": f"wait={LOOK_EVERY}", "if-none-match": answer.headers["etag"]}

    def _run(self, steps: Steps[T]) -> T:
        try:
            return super()._run(steps)
        except CallError as error:
            raise self._explain(error) from None

    def _explain(self, error: CallError) -> FailedError | WrongUseError:
        if isinstance(error, ProblemError):
            return (WrongUseError if error.status in WRONG else FailedError)(explain(error.status, error.problem))
        return FailedError(f"the intake at {self.url} does not answer ({error}); is it running?")


def explain(status: int, problem: Mapping[str, Any]) -> str:
    """A problem document as a sentence."""
    said = [": ".join(filter(None, (each["pointer"], each["detail"]))) for each in problem.get("errors", ())]
    return "; ".join(said) or problem.get("detail") or f"the intake answered {status}, and not with a problem document"


def connect() -> Client:
    """Where HAULIER_URL says, else to the `haulier dev` that runs in this directory. Raises WrongUseError."""
    url, key = os.environ.get("HAULIER_URL"), os.environ.get("HAULIER_API_KEY")
    if url and key:
        return Client(_check_url(url), key)
    if url or key:
        missing = "HAULIER_API_KEY" if url else "HAULIER_URL"
        raise WrongUseError(f"{missing} is not set; set both HAULIER_URL and HAULIER_API_KEY, or neither where a `haulier dev` runs")
    try:
        running = orjson.loads((DEV_DIRECTORY / "dev.json").read_bytes())
    except FileNotFoundError:
        raise WrongUseError("HAULIER_URL and HAULIER_API_KEY are not set, and no `haulier dev` runs in this directory") from None
    return Client(running["url"], running["keys"]["admin"])


def _check_url(url: str) -> str:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise WrongUseError(f"HAULIER_URL must be http://host:port or https://…, got {url!r}")
    return url
