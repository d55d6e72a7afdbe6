"""From the wire to encoded images: a counted body, and the files of a multipart form.

Nothing here interprets a value: a text field is bytes like any other and is never fetched, opened or evaluated
(BentoML's own image fields fetch strings as URLs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from .errors import Refusal, overloaded


@dataclass
class Budget:
    """How much of something may be in work at once; what would exceed it is refused, not queued."""

    limit: int
    used: int = 0

    @property
    def full(self) -> bool:
        """Whether not even one more would go in."""
        return self.used >= self.limit

    def take(self, amount: int, what: str) -> None:
        """Raises: Refusal: 503, when `amount` more would exceed the limit."""
        if self.used + amount > self.limit:
            raise overloaded(f"the service is full: {self.limit} {what} are in work already; send it again in a second")
        self.used += amount

    def give(self, amount: int) -> None:
        self.used -= amount


@dataclass(frozen=True, slots=True)
class Part:
    """One image of a request, encoded or as the pixels that the graph takes, uint8 (H, W, C); `where` names it in
    messages ("" for the only one)."""

    data: bytes | np.ndarray
    where: str = ""


async def read_body(request: Request, *, limit: int, setting: str, buffered: Budget) -> bytes:
    """The whole body; refused as soon as its declared or counted length exceeds `limit` bytes.

    `buffered` is charged for what has arrived; the caller gives back len(body) once the body is no longer needed
    (a body that is refused or breaks off is given back here).

    Raises:
        Refusal: 413 too many bytes; 415 a compressed body; 503 too many bytes in work.
        starlette.requests.ClientDisconnect: the client went away.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Refusal(415, f"content-encoding {encoding[:40]!r} is not accepted; send the image file as it is")
    declared = request.headers.get("content-length", "")
    too_large = Refusal(
        413,
        f"the body is larger than {limit} bytes, the most accepted here; send fewer ({setting} sets this)",
    )
    if declared.isdecimal() and int(declared[:19]) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            if size + len(chunk) > limit:
                raise too_large
            buffered.take(len(chunk), "bytes of bodies")
            size += len(chunk)
            chunks.append(chunk)
    except BaseException:
        buffered.give(size)
        raise
    return b"".join(chunks)


def multipart_boundary(content_type: str | None) -> bytes | None:
    """The boundary where a body is multipart/form-data; None where the body is the image itself.

    Raises:
        Refusal: 400, multipart without a usable boundary.
    """
    if content_type is None or not content_type.lower().lstrip().startswith("multipart/"):
        return None
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 70:  # RFC 2046
        raise Refusal(
            400, "the content-type must be multipart/form-data with a boundary of 1 to 70 characters, or name no form"
        )
    return boundary


def form_images(body: bytes, boundary: bytes, fields: tuple[str, ...], *, most: int) -> list[Part]:
    """The parts of a multipart body, each of which must be in one of `fields`, in the order sent; where there may be
    several, each is called by its number.

    Raises:
        Refusal: 400 malformed, no part, or a part in another field; 413 more than `most` parts.
    """
    form = _Form(fields, most)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError:
        form.ended = False
    accepted = " or ".join(repr(field) for field in fields)
    if not form.ended:
        raise Refusal(400, f"the multipart body is malformed or cut short; send each image in the field {accepted}")
    if not form.parts:
        raise Refusal(400, f"the multipart body has no parts; send the image in the field {accepted}")
    if most == 1:
        return [Part(form.parts[0][2])]
    return [Part(data, f"image {i} ({file[:100]!r}): ") for i, (_, file, data) in enumerate(form.parts)]


class _Form:
    """Collects (field, file name, bytes) from the parser's callbacks."""

    def __init__(self, fields: tuple[str, ...], most: int) -> None:
        self.parts: list[tuple[str, str, bytes]] = []
        self.ended = False
        self._fields = fields
        self._most = most
        self._header, self._value = bytearray(), bytearray()
        self._options: Mapping[bytes, bytes] = {}
        self._data = bytearray()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._part_begin,
            "on_part_data": lambda data, start, end: self._data.extend(memoryview(data)[start:end]),
            "on_part_end": self._part_end,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._data = bytearray()
        self._options = {}

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._options = parse_options_header(bytes(self._value))[1]
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        """Before a part's data is kept: whether it is one that is asked for, and not one too many."""
        name = self._named(b"name")
        if name not in self._fields:
            accepted = " or ".join(repr(field) for field in self._fields)
            raise Refusal(400, f"unknown field {name[:60]!r}; send the image in the field {accepted}")
        if len(self.parts) >= self._most:
            raise Refusal(413, f"more than {self._most} image{'s' * (self._most > 1)} in one request; send fewer")

    def _named(self, key: bytes) -> str:
        return self._options.get(key, b"").decode("utf-8", "replace")

    def _part_end(self) -> None:
        name, file = self._named(b"name"), self._named(b"filename")
        self.parts.append((name, file, bytes(self._data)))

    def _end(self) -> None:
        self.ended = True
