"""Pages for people: `/docs`, where the contract is browsed and tried, with all that it loads served from here."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import fastapi_offline
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from producers.intake.problems import Problem

ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon.png": "image/png",
}
_FILES = Path(fastapi_offline.__file__).parent / "static"

_START = """
window.ui = SwaggerUIBundle({
  url: "openapi.json", dom_id: "#docs", deepLinking: true, docExpansion: "list", showExtensions: true, defaultModelsExpandDepth: 0,
  tryItOutEnabled: true, persistAuthorization: false, displayRequestDuration: true, validatorUrl: null
});
"""

_DOCS = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Haulier: the contract</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>{_START}</script>
</body>
</html>
"""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } a { color: #0a58ca }
pre { background: #f4f4f4; padding: 1rem; overflow: auto } td { padding: .3rem 1rem .3rem 0; vertical-align: top }
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: Swagger UI writes style attributes, and draws its pictures from data: URLs. Nothing is loaded from, or sent to, anywhere else.
_DOCS_POLICY = (
    f"default-src 'none'; script-src 'self' {_hash(_START)}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TEXT_POLICY = f"default-src 'none'; style-src {_hash(_STYLE)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def html(title: str, body: str) -> Response:
    """A page of text. `body` is HTML, its values escaped."""
    text = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    return _page(text, _TEXT_POLICY)


def _page(text: str, policy: str) -> Response:
    return HTMLResponse(text, headers={"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"})


async def _show_docs(request: Request) -> Response:
    return _page(_DOCS, _DOCS_POLICY)


async def _show_asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise Problem("not-found", f"there is nothing at {request.url.path}")
    return FileResponse(_FILES / name, media_type=ASSETS[name], headers={"cache-control": "public, max-age=3600"})


routes = [Route("/docs", _show_docs, methods=["GET"]), Route("/docs/{name}", _show_asset, methods=["GET"])]
