"""Which pages of other origins may read the answers (the Fetch standard's CORS): those that HAULIER_CORS_ORIGINS names, by default none."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from producers.intake.problems import Problem

#: What a page that holds a watch token has a use for.
METHODS = ("GET", "POST")
SENT = ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer")
SHOWN = (
    "ETag", "Location", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed", "Preference-Applied", "WWW-Authenticate",
)  # fmt: skip


class Cors(CORSMiddleware):
    """Starlette's, but a refusal is a problem document like every other."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        # Credentials (a cookie) only ever go with an origin that was named: the settings refuse `*`.
        super().__init__(app, origins, METHODS, SENT, allow_credentials=True, expose_headers=SHOWN, max_age=3600)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        detail = f"{bytes(response.body).decode()}: a page of another origin may not ask for this; see HAULIER_CORS_ORIGINS"
        return Problem("malformed-request", detail, headers=kept).response("*")
