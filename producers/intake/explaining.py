"""What each problem means and what to do about it: the pages that a problem's `type` leads to, for people and for programs."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from producers.intake import pages
from producers.intake.problems import KINDS, Problem
from producers.intake.representation import answer, page
from producers.intake.views import ProblemKinds, ProblemKindView

router = APIRouter(tags=["operating"])


@dataclass(frozen=True, slots=True)
class Explanation:
    """`detail`, `instance` and `members` are those of an example."""

    meaning: str
    advice: str
    detail: str
    instance: str = "/v1/jobs"
    members: dict[str, Any] = field(default_factory=dict[str, Any])


_JOB = "/v1/jobs/0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"

EXPLANATIONS = {
    "malformed-json": Explanation(
        "The body is not JSON, or JSON that would be read differently elsewhere or cannot be kept: NaN, a doubled name, the character NUL,"
        " half a surrogate pair, an integer beyond 2^53, a number of more than 40 digits.",
        "Repair the body; `detail` says where. Send large numbers as strings. The Idempotency-Key is not used up.",
        "the body is not JSON: Expecting ',' delimiter at line 1, column 27",
    ),
    "malformed-request": Explanation(
        "A query parameter, a header field or a cursor is not as the contract says, or is not known at all.",
        "Compare the request with the document. Take cursors as they came, with the same filters.",
        "the query parameter 'colour' is not known here",
    ),
    "unauthenticated": Explanation(
        "The request has no API key, or one that is unknown, expired or revoked.",
        "Send `Authorization: Bearer hl_…`. An admin of your tenant makes keys with POST /v1/keys.",
        "give an API key as Authorization: Bearer hl_…",
    ),
    "forbidden": Explanation(
        "The key is valid, and its role may not do this; or the key belongs to a tenant and names another one.",
        "Use a key of one of the roles in `detail` (`x-roles` in the document).",
        "a key of role viewer may not do this; it takes admin, submitter",
    ),
    "not-found": Explanation(
        "There is no such thing in the tenant of this key. What belongs to another tenant is not there either.",
        "Check the id and the key. A job that was kept for its time is gone.",
        "there is no job 0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f",
        _JOB,
    ),
    "method-not-allowed": Explanation(
        "The path is known, and this method is not.", "Use one of those that `Allow` names.", "PUT is not known at /v1/jobs"
    ),
    "not-acceptable": Explanation(
        "`Accept` leaves out every representation that there is.",
        "Accept what `detail` names.",
        "the answer is application/json, and nothing else",
    ),
    "request-timeout": Explanation(
        "The request was not complete in time. Nothing was accepted.",
        "Send it again, faster or in smaller pieces.",
        "the body did not arrive within 15 s",
    ),
    "key-in-flight": Explanation(
        "A request with the same Idempotency-Key is being accepted at this moment.",
        "Repeat it after `Retry-After`: the answer is then the job of the first.",
        "a submission with this Idempotency-Key is still being accepted",
    ),
    "unique-held": Explanation(
        "Another job of this command holds the unique key; `job_id` names it. Nothing was accepted, or replayed.",
        "Follow that job; or submit with `on_conflict` of `return` or `replace`.",
        "the unique key 'cart-17' is held by job 0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f; nothing was accepted",
        members={"job_id": "0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f"},
    ),
    "precondition-failed": Explanation(
        "The thing was changed after it was read; the `If-Match` of this change names an older version.",
        "Read it again, look at what has become of it, and send the change with the new ETag.",
        "webhook 0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f has been changed meanwhile; read it again, nothing changed",
        "/v1/webhooks/0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f",
    ),
    "precondition-required": Explanation(
        "A change needs to say which version it is made from, so that two people cannot undo each other's.",
        "Send the ETag that GET answered as `If-Match`.",
        "say which version the change is made from: If-Match with the ETag of GET",
        "/v1/webhooks/0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f",
    ),
    "wrong-state": Explanation(
        "The job's state does not allow it: a final job is not cancelled, one that is not dead is not replayed. Nothing changed.",
        "Read the job; `state` says where it stands.",
        "job 0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f is succeeded; nothing changed",
        f"{_JOB}/cancel",
        {"state": "succeeded"},
    ),
    "unresolved-call": Explanation(
        "A call to a service that takes no idempotency key may or may not have happened. Running the job again might do it twice.",
        "Find out, say so with POST …/resolve for each of `steps`, then replay.",
        "the outcome of ship is unknown; resolve it before the job can run again",
        "/v1/dead-letters/0192f5a0-7d1c-7c7e-9d0a-3f2b8c1d4e5f/replay",
        {"steps": ["ship"]},
    ),
    "slug-taken": Explanation(
        "Another tenant has this slug.", "Choose another one.", "there is a tenant 'acme' already; nothing changed", "/v1/tenants"
    ),
    "gone": Explanation(
        "What was asked for was kept for its time and is gone.",
        "Read results while they are kept; submit again under a new Idempotency-Key if the work is still wanted.",
        "the job of this Idempotency-Key was kept for its time and is gone; nothing new was accepted",
    ),
    "too-large": Explanation(
        "The body has more bytes, more values or deeper nesting than is taken.",
        "Send a reference to large data instead of the data. GET /v1/commands shows the limits.",
        "the body must be at most 1048576 bytes",
    ),
    "uri-too-long": Explanation("The URL is over its limit.", "Ask for fewer ids or labels at once.", "the URL must be at most 8192 bytes"),
    "unsupported-media-type": Explanation(
        "The body's Content-Type, charset or Content-Encoding is not one that is taken here.",
        "Send `Content-Type: application/json` in UTF-8, not compressed.",
        "the body must be application/json in UTF-8, got 'text/plain'",
    ),
    "invalid": Explanation(
        "The body is JSON and breaks its schema; `errors` points at each place.",
        "Repair those places. GET /v1/commands/{name} has a command's schema, and an example that is accepted as it stands.",
        "1 things are wrong with the body; see errors",
        members={"errors": [{"pointer": "/payload/lines/0/quantity", "detail": "Input should be greater than or equal to 1"}]},
    ),
    "key-reused": Explanation(
        "The Idempotency-Key names an earlier request with another body. Nothing was accepted.",
        "Use one key for one wish: the very same body when repeating it, a new key for another wish.",
        "this Idempotency-Key was used before for another body; nothing was accepted",
    ),
    "too-many-waiting": Explanation(
        "As many requests of this tenant wait at this intake, or read its streams, as one tenant's may.",
        "Follow several jobs with one stream (GET /v1/events) or one poll (GET /v1/jobs?ids=…); or ask again after Retry-After.",
        "5000 requests of this tenant wait here already",
        _JOB,
    ),
    "unknown-command": Explanation(
        "No command has this name; `nearest` is the known name most like it.",
        "GET /v1/commands lists what there is.",
        "unknown command 'orders.plaec', did you mean 'orders.place'?",
        members={"nearest": "orders.place", "errors": [{"pointer": "/command", "detail": "unknown command 'orders.plaec'"}]},
    ),
    "rate-limited": Explanation(
        "The tenant, or this key, has submitted more than its limit allows; `violated-policies` says which. Nothing was accepted.",
        "Send it again after `Retry-After` seconds. `RateLimit` on every answer says what is left; GET /v1/limits shows the limits.",
        "more than the limit of 50 jobs a second and 100 at once (this tenant); nothing was accepted, try again in 1 s",
        members={"violated-policies": ["tenant"]},
    ),
    "backlog-full": Explanation(
        "The tenant has as many jobs waiting or running as it may. Nothing was accepted.",
        "Send it again after `Retry-After` seconds, when some have ended. GET /v1/limits shows the limit.",
        "the tenant may have 100000 jobs open and has about 100000; nothing was accepted, try again when some have ended",
        members={"violated-policies": ["open-jobs"]},
    ),
    "headers-too-large": Explanation(
        "The header fields together are over their limit.",
        "Send fewer or shorter ones.",
        "the headers must be at most 16384 bytes together",
    ),
    "internal": Explanation(
        "The intake made a mistake, and has logged it. It is not known how far it came.",
        "Repeat a submission with the same Idempotency-Key. Tell the operator the time and the path.",
        "the intake made a mistake and has logged it; nothing is known about what it did",
    ),
    "outcome-unknown": Explanation(
        "The connection to the ledger was lost between the question and the answer: it may have been accepted, or not.",
        "Repeat it with the same Idempotency-Key after `Retry-After`: one job comes of it.",
        "the connection to the ledger was lost on the way; it may have been accepted, repeat it with the same Idempotency-Key",
    ),
    "unavailable": Explanation(
        "The ledger cannot be reached, or does not keep up. Nothing was accepted.",
        "Try again after `Retry-After`.",
        "the ledger cannot be reached; nothing was accepted",
    ),
}


@router.get(
    "/problems",
    response_model=ProblemKinds,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def list_problems(request: Request) -> Response:
    """Every problem that there is: JSON, or a page for a browser."""
    if not wants_html(request.headers):
        return _vary(answer(page([_show(kind) for kind in KINDS])))
    rows = "".join(
        f'<tr><td>{known.status}</td><td><a href="problems/{kind}">{kind}</a></td><td>{html.escape(known.title)}</td></tr>'
        for kind, known in KINDS.items()
    )
    return _vary(pages.html("Problems", f"<h1>Problems</h1><p>Every error of the intake is one of these.</p><table>{rows}</table>"))


@router.get(
    "/problems/{kind}",
    response_model=ProblemKindView,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def explain_problem(request: Request, kind: Annotated[str, Path(max_length=100)]) -> Response:
    """Every problem's `type` leads here: what it means, what to do, an example. JSON, or a page for a browser."""
    if kind not in KINDS:
        raise Problem("not-found", f"there is no problem {kind!r}; there are: {', '.join(KINDS)}")
    shown = _show(kind)
    if not wants_html(request.headers):
        return _vary(answer(shown))
    example = html.escape(orjson.dumps(shown["example"], option=orjson.OPT_INDENT_2).decode())
    body = (
        f"<h1>{shown['status']}: {html.escape(shown['title'])}</h1>\n"
        f"<p>{_marked(shown['meaning'])}</p>\n<h2>What to do</h2>\n<p>{_marked(shown['advice'])}</p>\n"
        f'<h2>An example</h2>\n<pre>{example}</pre>\n<p><a href="../problems">All problems</a> · <a href="../docs">The contract</a></p>'
    )
    return _vary(pages.html(html.escape(shown["title"]), body))


def _marked(text: str) -> str:
    """As HTML, what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _show(kind: str) -> dict[str, Any]:
    known, told = KINDS[kind], EXPLANATIONS[kind]
    return {
        "type": f"/problems/{kind}",
        "status": known.status,
        "title": known.title,
        "meaning": told.meaning,
        "advice": told.advice,
        "example": example_of(kind),
    }


def example_of(kind: str) -> dict[str, Any]:
    """A problem document of this kind."""
    known, told = KINDS[kind], EXPLANATIONS[kind]
    common = {"type": f"/problems/{kind}", "title": known.title, "status": known.status}
    return common | {"detail": told.detail, "instance": told.instance, **told.members}


def _vary(response: Response) -> Response:
    response.headers["vary"] = "accept"
    return response


def wants_html(headers: Headers) -> bool:
    """Whether a page is liked better than JSON, as by every browser. What names neither gets JSON."""
    accepted = [part for value in headers.getlist("accept") for part in value.split(",")]
    return _liking(accepted, "text/html") > _liking(accepted, "application/json")


def _liking(accepted: list[str], media_type: str) -> float:
    """The weight of a media type in Accept (RFC 9110, 12.5.1): the most specific range that it is in decides."""
    ranges = [media_type, f"{media_type.partition('/')[0]}/*", "*/*"]
    weights = dict.fromkeys(ranges, -1.0)
    for part in accepted:
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        if name in weights:
            weights[name] = float(quality) if quality.replace(".", "", 1).isascii() and quality.replace(".", "", 1).isdigit() else 0.0
    return next((weight for weight in weights.values() if weight >= 0), 0.0)
