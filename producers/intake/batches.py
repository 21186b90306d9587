"""The batches' place among the routes: how one stands, what is said of them in the document, and what other methods get."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ledger import batches
from ledger.reading import FINAL
from producers.intake.auth import SUBMIT, Reader
from producers.intake.contract import LIMITED, Responses, header, key_parameter, problems
from producers.intake.parts import Tx, parts_of
from producers.intake.problems import Problem, not_found
from producers.intake.receiving import MOST_ITEMS
from producers.intake.representation import answer, utc
from producers.intake.views import AtomicBatchView, BatchAnswerView, BatchView
from producers.submission import BatchItem

router = APIRouter(prefix="/v1/batches", tags=["jobs"])


@router.get("/{batch_id}", response_model=BatchView, operation_id="show_batch")
def show_batch(request: Request, access: Reader, batch_id: UUID) -> Response:
    """How its jobs stand. `receiving` until its body was read to the end (one whose connection was cut stays so until it is repeated with its
    key), then `active` while a job is open, then `ended`. Kept for as long as ended jobs are.
    """

    def read(tx: Tx) -> Response:
        found = batches.read(tx, batch_id, access.tenants(tx))
        if found is None:
            raise not_found(f"batch {batch_id}")
        state = "receiving" if found.items is None else "ended" if found.counts.keys() <= FINAL else "active"
        shown = {"id": found.id, "state": state, "created_at": utc(found.created_at), "items": found.items}
        return answer({**shown, "accepted": found.accepted, "refused": found.refused, "counts": found.counts})

    return parts_of(request).door.use_for(access, read)


class AnotherMethod:
    """An ASGI app: another method at the batch's path, which would else be taken for a job's id."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._call = scope, receive, send

    def __await__(self) -> Generator[Any, None, None]:
        scope, receive, send = self._call
        problem = Problem("method-not-allowed", f"{scope['method']} is not known at {scope['path']}", headers={"allow": "POST"})
        return problem.response(scope["path"])(scope, receive, send).__await__()


def document() -> dict[str, Any]:
    """The route's part of the OpenAPI document."""
    shown = {
        "Location": header("the batch"),
        "Idempotency-Replayed": header("true for a repeat that added no job"),
        "Deprecation": header("an item's version of its command should not be used any more, since then at the earliest (RFC 9745)"),
        "Sunset": header("until when the first of those is there (RFC 8594)"),
        "Link": header("with rel=successor-version: the latest version of each command that its anchor names"),
    }
    again = {"Retry-After": header("seconds, where a limit or an outage ended it and a repeat may finish it")}
    link = {"show_batch": {"operationId": "show_batch", "parameters": {"batch_id": "$response.body#/batch_id"}}}
    responses: Responses = {
        "202": {
            "description": "With `atomic`: all are accepted",
            "headers": shown,
            "content": {"application/json": {"schema": AtomicBatchView.model_json_schema()}},
            "links": link,
        },
        "207": {
            "description": "An answer for each item, in order: 202 is as binding as that of a single submission. With `problem`, the body was not"
            " taken to its end: the items that are answered for stand, what follows was refused or is unknown",
            "headers": shown | again,
            "content": {"application/json": {"schema": BatchAnswerView.model_json_schema()}},
            "links": link,
        },
        **{str(status): each for status, each in problems(408, "key-in-flight", 413, 415, "invalid", "key-reused", *LIMITED).items()},
    }
    flag = {"type": "boolean", "default": False}
    operation: dict[str, Any] = {
        "operationId": "accept_batch",
        "summary": "Submit up to 10,000 jobs",
        "description": "An array, or a submission a line. Items are kept as they arrive. After a cut connection, repeat it with its Idempotency-Key: the"
        " same jobs, and what was missing. Items without any key would be submitted again. `Prefer: wait` is ignored.",
        "tags": ["jobs"],
        "x-roles": sorted(SUBMIT),
        "parameters": [
            key_parameter("the caller's name for this batch: the same key and items are the same batch and the same jobs"),
            {"name": "atomic", "in": "query", "required": False, "description": "all items, or none", "schema": flag},
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "array", "minItems": 1, "maxItems": MOST_ITEMS, "items": BatchItem.model_json_schema()},
                },
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "an item a line"},
                },
            },
        },
        "responses": responses,
    }
    return {"post": operation}
