"""From what a handler returned or raised to what the ledger shall write: one line for each case."""

from __future__ import annotations

import contextlib
import math
import re
import traceback
from uuid import UUID

import orjson
import psycopg
import structlog
from psycopg import OperationalError
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError

from ledger.attempts import Begun, End
from ledger.workers import Lapsed
from pipelines.command import CommandError, Handler, Rejected, Retry, Snooze, Snoozed

log = structlog.get_logger()

#: Longer messages and tracebacks are cut in the middle: both ends tell most.
KEPT_CHARACTERS = 8_000
#: So many interruptions that were nobody's fault are believed; after that they count as failures.
INTERRUPTIONS = 20
#: Seconds, a hundred years: whoever waits for longer waits so long.
LONGEST_WAIT = 100 * 366 * 86_400.0

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class NeedsReviewError(Exception):
    """A call whose outcome nobody knows, to a service that takes no key: a person must look before the job may run again."""


class InvalidPayloadError(Exception):
    """The stored payload does not satisfy the command's schema (it came by SQL, or the schema has changed)."""

    def __init__(self, error: ValidationError) -> None:
        found = ("/payload/" + "/".join(str(part) for part in problem["loc"]) + ": " + problem["msg"] for problem in error.errors())
        super().__init__("the payload does not satisfy the command's schema: " + "; ".join(found))


class ResultTooLargeError(Exception):
    """What the handler returned is longer than its command allows: another attempt would return it again."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the result has {size} bytes as JSON and may have {limit}; what the handler wrote is rolled back. "
            "Keep large data elsewhere and return a reference, or raise result_limit"
        )


class CutShortError(Exception):
    """The attempt was cut short by no fault of the job: a shutdown, or the database going away."""


def judge(handler: Handler, begun: Begun, worker_id: UUID, found: object, lines: str | None) -> End:
    """What becomes of an attempt that did not simply succeed. `found`: what the handler returned (Rejected, Snooze) or raised."""
    try:
        return _judge(handler, begun, worker_id, found, lines)
    except Exception as error:  # noqa: BLE001  (of what a handler says nothing is certain; that it cannot be read is a failure)
        return fail(handler, begun, worker_id, _raised(error, "unexpected"), None, lines)


def _judge(handler: Handler, begun: Begun, worker_id: UUID, found: object, lines: str | None) -> End:
    def end(state: str, kind: str, **facts: object) -> End:
        return End(begun.job_id, begun.attempt, worker_id, state, kind, log=lines, **facts)  # pyright: ignore[reportArgumentType]

    match found:
        case Rejected(message, code):
            return end("rejected", "rejected", error=_error(code, message))
        case Snooze(seconds=seconds) | Snoozed(seconds=seconds):
            return end("scheduled", "snoozed", wait=_seconds(seconds))
        case InvalidPayloadError():
            return end("dead", "died", reason="invalid", error=_error("invalid", str(found)))
        case ResultTooLargeError():
            return end("dead", "died", reason="permanent", blame=True, error=_error("result_too_large", str(found)))
        case NeedsReviewError():
            return end("dead", "died", reason="needs_review", error=_raised(found, "needs_review"))
        case CutShortError() if begun.attempt - begun.failures < INTERRUPTIONS:
            return end("scheduled", "interrupted", wait=1.0, solo=begun.solo)
        case Exception() if isinstance(found, handler.rejects):
            return end("rejected", "rejected", error=_error(code_of(found), _text(found)))
        case Exception() if isinstance(found, handler.buries):
            return end("dead", "died", reason="permanent", blame=True, error=_raised(found, code_of(found)))
        case Exception() if (wait := _snooze(handler, found)) is not None:
            return end("scheduled", "snoozed", wait=_seconds(wait))
        case BaseException():
            return fail(handler, begun, worker_id, _raised(found, code_of(found)), getattr(found, "retry_after", None), lines)
        case _:
            raise TypeError(f"neither an exception nor Rejected nor Snooze: {found!r}")


def cut_short(error: Exception) -> Exception:
    """A lost connection or a deadlock is nobody's fault; any other statement that failed is the handler's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error) or not _is_nobodys_fault(cause):
        return error
    return CutShortError(f"the database went away or chose another: {cause}")


def _is_nobodys_fault(error: psycopg.Error) -> bool:
    """No answer at all, a server that goes down or has no room (class 53: disk, memory, connections; I/O errors), or a deadlock that chose this one."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, OperationalError)
    return state[:2] in {"08", "53"} or state in {"57P01", "57P02", "57P03", "58030", "40001", "40P01"}


def result_of(found: object, limit: int) -> str | None:
    """What a handler returned, as JSON text. Raises ResultTooLargeError beyond so many bytes."""
    return _checked(_json(found), limit)


def _json(found: object) -> str | None:
    if found is None:
        return None
    if isinstance(found, BaseModel):
        return found.model_dump_json()
    return orjson.dumps(found).decode()


def _checked(result: str | None, limit: int) -> str | None:
    """JSON may hold a NUL, jsonb may not: better this attempt fails than a set of them cannot be written. Raises ResultTooLargeError."""
    if result is not None and len(result) * 4 > limit and (size := len(result.encode())) > limit:
        raise ResultTooLargeError(size, limit)
    if result is not None and _NUL.search(result):
        raise ValueError("the result holds a NUL character (U+0000), which the ledger cannot keep")
    return result


def fail(
    handler: Handler, begun: Begun, worker_id: UUID, error: str, retry_after: object, lines: str | None, reason: str = "exhausted"
) -> End:
    """A failure: another attempt after backoff (at least what the other side asked for), or a dead letter when it was the last."""
    failures = begun.failures + 1
    if failures >= begun.max_failures:
        return End(begun.job_id, begun.attempt, worker_id, "dead", "died", reason, blame=True, error=error, log=lines)
    wait = _backoff(handler.retry, failures)
    with contextlib.suppress(ValueError, TypeError, OverflowError):  # some exceptions have something else of this name
        wait = max(wait, _seconds(retry_after or 0))
    return End(begun.job_id, begun.attempt, worker_id, "scheduled", "failed", blame=True, wait=wait, error=error, log=lines)


def lapse(lapsed: Lapsed, retry: Retry, *, guilty: bool) -> End:
    """What becomes of a job whose worker is gone (or that is past its deadline under a live one).

    Nobody knows whether the job took its process down: it runs next alone, and only a crash there counts. `guilty=False`: it had not
    even started.
    """
    job_id, attempt, worker_id = lapsed.job_id, lapsed.attempt, lapsed.worker_id
    if not guilty:
        return End(job_id, attempt, worker_id, "queued", "handed_back", solo=lapsed.solo)
    if not lapsed.late and not lapsed.solo:
        return End(job_id, attempt, worker_id, "queued", "rescued", solo=True)
    reason = "timeout" if lapsed.late else "crashed"
    error = timed_out() if lapsed.late else crashed("its worker died while it ran alone")
    failures = lapsed.failures + 1
    if failures >= lapsed.max_failures:
        return End(job_id, attempt, worker_id, "dead", "died", reason, blame=True, error=error)
    wait = _backoff(retry, failures)
    return End(job_id, attempt, worker_id, "scheduled", "failed", blame=True, wait=wait, solo=not lapsed.late, error=error)


def timed_out() -> str:
    return _error("timeout", "the attempt took longer than its command allows")


def crashed(how: str) -> str:
    return _error("crashed", how)


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, CommandError) else "unexpected"


def _snooze(handler: Handler, error: BaseException) -> float | None:
    return next((seconds for kind, seconds in handler.snoozes.items() if isinstance(error, kind)), None)


def _backoff(retry: Retry, failures: int) -> float:
    """Seconds; the usual ones where the command's own way of counting them fails, since no job may stay without an end for that."""
    try:
        return _seconds(retry.backoff(failures))
    except Exception:
        log.exception("a command's backoff failed; its job waits as long as others", failures=failures)
        return Retry().backoff(failures)


def _seconds(given: object) -> float:
    """A wait that can be kept. Raises ValueError or TypeError for what is no number."""
    seconds = float(given)  # pyright: ignore[reportArgumentType]
    if math.isnan(seconds):
        raise ValueError(f"{given!r} is no number of seconds to wait")
    return min(max(0.0, seconds), LONGEST_WAIT)


def _text(value: object) -> str:
    """Somebody's own text, which may fail."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001
        return f"{type(value).__name__}, which does not say what it is"


def _raised(error: BaseException, code: str) -> str:
    trace = "".join(traceback.format_exception(error))
    return _error(code, _text(error) or type(error).__name__, type=type(error).__qualname__, traceback=_cut(trace))


def _error(code: object, message: object, **more: str) -> str:
    clean = {name: storable(text) for name, text in {"code": _text(code), "message": _cut(_text(message)), **more}.items()}
    return orjson.dumps(clean).decode()


def storable(text: str) -> str:
    """Without what Postgres refuses in jsonb: NUL and lone surrogates (an exception's text may hold anything)."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _cut(text: str) -> str:
    if len(text) <= KEPT_CHARACTERS:
        return text
    half = KEPT_CHARACTERS // 2
    return f"{text[:half]}\n… {len(text) - KEPT_CHARACTERS} characters left out …\n{text[-half:]}"
