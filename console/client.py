"""The intake as commands see it: over HTTP, with the key of HAULIER_API_KEY, or those of a `haulier dev` that runs here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson

from console.failing import FailedError, WrongUseError

#: Where `haulier dev` lives unless it is told otherwise.
DEV_DIRECTORY = Path(".haulier/dev")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
#: Answers that mean that the request itself was wrong, whatever the state of things.
WRONG = {400, 413, 422}
FINAL = {"succeeded", "rejected", "dead", "cancelled"}
#: Seconds between two looks at a job.
LOOK_EVERY = 0.3


class Client:
    """Raises FailedError or WrongUseError, with what the intake says, for every answer that is an error."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        is_near = urlsplit(url).hostname in LOOPBACK  # a proxy for the world outside cannot reach it
        self._http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, trust_env=not is_near)

    def get(self, path: str, **query: Any) -> Any:
        asked = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", path, params=asked)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        content = orjson.dumps(body) if body is not None else b"{}"
        return self._ask("POST", path, content=content, headers={"content-type": "application/json", **headers})

    def watch(self, job_id: object) -> Iterator[Any]:
        """The job, each time that it differs from the last time; without an end."""
        before = None
        while True:
            job = self.get(f"/v1/jobs/{job_id}")
            if job != before:
                yield job
                before = job
            time.sleep(LOOK_EVERY)

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        try:
            answer = self._http.request(method, path, **what)
        except httpx2.TransportError as error:
            raise FailedError(f"the intake at {self.url} does not answer ({error}); is it running?") from None
        if answer.is_success:
            return orjson.loads(answer.content)
        raise (WrongUseError if answer.status_code in WRONG else FailedError)(explain(answer))


def explain(answer: httpx2.Response) -> str:
    """A problem document as a sentence."""
    try:
        problem = orjson.loads(answer.content)
        said = [f"{each['pointer']}: {each['detail']}" for each in problem.get("errors", [])]
        return "; ".join(said) or problem["detail"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"the intake answered {answer.status_code}, and not with a problem document: {answer.text[:200]!r}"


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
