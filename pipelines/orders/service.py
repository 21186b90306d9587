"""One outside HTTP service as a handler calls it: with a key, a deadline, a size limit and a circuit breaker, and an answer of known shape."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from pipelines.command import CommandError
from pipelines.orders.breaker import Breaker, Unavailable
from pipelines.run import Refused

#: Bytes of an answer; ours need a few hundred.
MAX_ANSWER = 65_536
#: Seconds; a service that asks for more is asked again after this long.
MAX_RETRY_AFTER = 3600.0
#: These say "later", not "no": the same call with the same key may succeed.
LATER = frozenset({408, 409, 425, 429})

Answer = TypeVar("Answer", bound=BaseModel)


class GarbledAnswer(CommandError):
    """The outside service answered something that cannot be right. It may have done its part: a person must look."""

    code: ClassVar[str] = "garbled_answer"


class CallRefused(Refused, CommandError):
    """The outside service said a definite no to the call itself (4xx), and did nothing."""

    code: ClassVar[str] = "call_refused"


class Service:
    """A service at one address. One for each process; any number of threads call it."""

    def __init__(self, name: str, url: str, timeout: float, breaker: Breaker | None = None) -> None:
        self.name = name
        self.breaker = breaker or Breaker(name)
        self._timeout = timeout
        # The address is ours and explicit, so no proxy from the environment; idle connections are dropped before the other side's usual
        # 5 s, so that a call rarely meets a connection that is just being closed.
        self._client = httpx2.Client(
            base_url=url,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 3.0)),
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=2.0),
            follow_redirects=False,
            trust_env=False,
        )

    def post(self, path: str, body: dict[str, Any], idempotency_key: str, answers: dict[int, type[Answer]]) -> Answer:
        """POST, and read the answer as the model that its status calls for.

        Raises Unavailable or CircuitOpen (again, with the same key), CallRefused (nothing happened), GarbledAnswer.
        """
        return self.breaker.call(lambda: self._post(path, body, idempotency_key, answers))

    def _post(self, path: str, body: dict[str, Any], idempotency_key: str, answers: dict[int, type[Answer]]) -> Answer:
        try:
            with self._client.stream("POST", path, json=body, headers={"Idempotency-Key": idempotency_key}) as response:
                content = self._read(response)
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self.name} did not answer: {type(error).__name__} {error}") from error
        model = answers.get(response.status_code)
        if model is None:
            raise self._no(response, content)
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            problems = "; ".join(f"{'/'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in error.errors())
            raise GarbledAnswer(f"{self.name} answered {response.status_code} with {content[:200]!r}: {problems}") from error

    def _read(self, response: httpx2.Response) -> bytes:
        """The body. The client's timeout holds for each read only: a service that drips could hold a thread for ever."""
        late = time.monotonic() + self._timeout
        content = b""
        for part in response.iter_bytes():
            content += part
            if len(content) > MAX_ANSWER:
                raise GarbledAnswer(f"{self.name} answered more than {MAX_ANSWER} bytes, beginning {content[:200]!r}")
            if time.monotonic() > late:
                raise Unavailable(f"{self.name} was still answering after {self._timeout:g} s")
        return content

    def _no(self, response: httpx2.Response, content: bytes) -> Exception:
        status = response.status_code
        said = f"{self.name} answered {status}: {content[:200].decode(errors='replace')}"
        if status >= 500 or status in LATER:
            return Unavailable(said, retry_after(response.headers.get("Retry-After")))
        if status >= 400:
            return CallRefused(said)
        return GarbledAnswer(f"{said} (expected a success or an error)")


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After field, a number or a date. None when there is none, or when it says nothing readable."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER)
