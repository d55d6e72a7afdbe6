"""What every answer tells a browser: take it for what it says it is, show it in no frame, run nothing, tell no one."""

from __future__ import annotations

from starlette.responses import Response

_POLICY = b"content-security-policy"
Header = tuple[bytes, bytes]
_ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_DATA_ONLY = (_POLICY, b"default-src 'none'; frame-ancestors 'none'")
DATA_HEADERS: list[Header] = [*_ALWAYS, _DATA_ONLY]  # of an answer that is no page


def protect(response: Response) -> None:
    """Add the headers that the response does not have; a page brings a policy of its own."""
    has = {name for name, _ in response.raw_headers}
    response.raw_headers += [header for header in DATA_HEADERS if header[0] not in has]
