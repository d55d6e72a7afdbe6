"""Which pages of other origins a browser lets read our answers (Fetch Standard, CORS protocol); none by default."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from .errors import Refusal

_ASKS = "access-control-request-method"
_KEPT_S = "600"  # how long a browser remembers a preflight's answer


class Origins:
    """The origins of GUARD_CORS_ORIGINS; "*" is every one.

    No cookies or credentials are involved: the service knows none.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    def preflight(self, request: Request, path: str, methods: Sequence[str]) -> Response | None:
        """The answer to a browser's question whether a page may send a request; None where it asks nothing.

        Raises:
            Refusal: 405 where no origin is allowed, 403 where another is.
        """
        if request.method != "OPTIONS" or _ASKS not in request.headers:
            return None
        allow = {"Allow": ", ".join(methods)}
        if not self._allowed:
            reason = "pages of other origins are let in by GUARD_CORS_ORIGINS, which is empty"
            raise Refusal(405, f"{path} takes {methods[0]} only; {reason}", allow)
        if not self._lets_in(request):
            origin = request.headers.get("origin", "")[:100]
            raise Refusal(403, f"the origin {origin!r} is not among those of GUARD_CORS_ORIGINS")
        asked = request.headers.get("access-control-request-headers", "content-type")[:1000]
        headers = {
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": asked,
            "Access-Control-Max-Age": _KEPT_S,
        }
        return Response(status_code=204, headers=headers)

    def mark(self, request: Request, response: Response) -> None:
        """Tell the browser that its page may read this answer, where it may; errors too."""
        if not self._allowed:
            return
        if "*" not in self._allowed:
            response.headers.append("Vary", "Origin")
        if self._lets_in(request):
            any_page = "*" in self._allowed
            response.headers["Access-Control-Allow-Origin"] = "*" if any_page else request.headers["origin"]

    def _lets_in(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        return origin is not None and ("*" in self._allowed or origin.lower() in self._allowed)
