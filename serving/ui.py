"""The page at /ui: one file, no outside resource, and a policy under which nothing else could load or run."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from .routing import READ, Route, Routes
from .worker import Worker

PAGE = Path(__file__).parent / "page" / "index.html"


def routes(_: Worker) -> Routes:
    """/ui, and / which leads to it."""

    async def page(_: Request) -> Response:
        return page_response()

    async def home(_: Request) -> Response:
        return RedirectResponse("ui", status_code=307)

    return {"/ui": Route(page, READ), "/": Route(home, READ)}


def content_security_policy(html: str) -> str:
    """Allows this page's own <script> and <style>, by hash, images the user chose, and requests to this service."""

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {hashes('script')}",
            f"style-src {hashes('style')}",
            "img-src blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


@functools.cache
def _page() -> tuple[bytes, dict[str, str]]:
    html = PAGE.read_text(encoding="utf-8")
    return html.encode(), {
        "Content-Security-Policy": content_security_policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def page_response() -> Response:
    """The page with its headers."""
    body, headers = _page()
    return Response(body, headers=headers, media_type="text/html")
