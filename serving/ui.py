"""The page at /ui: files of our own, no outside resource, and a policy under which nothing else could load or run."""

from __future__ import annotations

import functools
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from .routing import READ, Handler, Route, Routes
from .worker import Worker

PAGE = Path(__file__).parent / "page"

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

#: Scripts and styles of this service alone, images that the user chose or that an answer holds, requests to it alone.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(_: Worker) -> Routes:
    """/ui, the files beside it, and / which leads to it."""

    async def page(request: Request) -> Response:
        if request.url.path.endswith("/"):  # the page's files are named relative to /ui
            return RedirectResponse("../ui", status_code=307)
        return page_file("index.html")

    async def home(_: Request) -> Response:
        return RedirectResponse("ui", status_code=307)

    return {
        "/ui": Route(page, READ, open=True),
        "/": Route(home, READ, open=True),
        **{f"/ui/{name}": Route(_sender(name), READ, open=True) for name in page_files()},
    }


def page_files() -> list[str]:
    """The names of the files beside the page."""
    return [path.name for path in sorted(PAGE.iterdir()) if path.suffix in (".css", ".js")]


def _sender(name: str) -> Handler:
    async def send(_: Request) -> Response:
        return page_file(name)

    return send


@functools.cache
def _read(name: str) -> bytes:
    return (PAGE / name).read_bytes()


def page_file(name: str) -> Response:
    """A file of the page with its headers."""
    return Response(_read(name), headers=HEADERS, media_type=KINDS[Path(name).suffix])
