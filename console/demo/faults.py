"""Faults of a demo service, switched on while it runs: `POST /faults {"mode": "error_after", "count": 3}`; `none` switches them off."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class Fault(BaseModel):
    """`outage`: 503, and nothing is done. `busy`: 429, and nothing is done. `slow`: done, and answered `seconds` later. `error_after`: done, and answered with 500.
    `declined`: refused. `garbage`: done, and answered with what is no JSON. `wrong_amount`: done, and answered with another amount.
    """

    model_config = ConfigDict(extra="forbid")

    mode: str = "none"
    count: int | None = Field(default=None, ge=1, description="for so many requests; without it until it is switched off")
    seconds: float = Field(default=1, ge=0, le=3600, description="how slow `slow` is")


class Faults:
    """The one fault that is on."""

    def __init__(self, modes: Iterable[str]) -> None:
        self._modes = {"none", *modes}
        self._fault = Fault()
        self._left: int | None = None

    async def switch(self, request: Request) -> Response:
        """The endpoint."""
        try:
            fault = Fault.model_validate_json(await request.body())
        except ValidationError as error:
            return refusal(422, "bad_fault", str(error))
        if fault.mode not in self._modes:
            return refusal(422, "bad_fault", f"mode must be one of {', '.join(sorted(self._modes))}, got {fault.mode!r}")
        self._fault, self._left = fault, fault.count
        return JSONResponse(fault.model_dump())

    def next(self) -> Fault:
        """What is wrong with the request at hand; one that has a count is used up by it."""
        fault = self._fault
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._fault, self._left = Fault(), None
        return fault


def refusal(status: int, error: str, detail: str) -> Response:
    return JSONResponse({"error": error, "detail": detail}, status)


def away() -> Response:
    return JSONResponse({"error": "away", "detail": "try again later"}, 503, {"Retry-After": "1"})


def busy() -> Response:
    return JSONResponse({"error": "busy", "detail": "too many requests; come later"}, 429, {"Retry-After": "1"})


def broken() -> Response:
    return JSONResponse({"error": "internal", "detail": "something broke after it was done"}, 500)


def garbage() -> Response:
    return Response("<html><body>It works!</body></html>\n", 201, media_type="text/html")
