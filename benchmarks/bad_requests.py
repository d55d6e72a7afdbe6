"""Requests that a service must refuse or survive, made at random from a seed: broken images, forms, JSON and HTTP.

Each is (kind, bytes to send, how): "whole" is sent and its answer awaited, "leave" is sent in part and the connection
closed, "half" is sent in part and no more comes.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from benchmarks.load import form, post

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True)
class Bad:
    """One bad request.

    Attributes:
        kind: its maker's name.
        data: what is sent.
        how: "whole", "leave" or "half".
        http: whether it is HTTP at all, so that an answer can be expected.
    """

    kind: str
    data: bytes
    how: str = "whole"
    http: bool = True


def image(rng: random.Random, kind: str | None = None) -> bytes:
    """A sound picture in any format."""
    picture = Image.frombytes("RGB", (24, 20), rng.randbytes(24 * 20 * 3))
    file = io.BytesIO()
    picture.save(file, kind or rng.choice(FORMATS))
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A whole PNG of width x height black pixels in a few kilobytes."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMB = bomb(12_000, 12_000)  # 144 megapixels


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut off or doubled."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    if rng.random() < 0.5:
        broken = broken[: rng.randrange(len(broken) + 1)]
    return bytes(broken)


def _path(rng: random.Random) -> str:
    return rng.choice(["/predict", "/predict_batch", "/v2/models/guard/infer"])


def broken_image(rng: random.Random) -> Bad:
    return Bad("broken image", post("/predict", damaged(rng, image(rng)), "image/png"))


def broken_image_in_a_form(rng: random.Random) -> Bad:
    body, kind = form([damaged(rng, image(rng)) for _ in range(rng.randint(1, 3))], rng.choice(["image", "images"]))
    return Bad("broken image in a form", post(rng.choice(["/predict", "/predict_batch"]), body, kind))


def broken_form(rng: random.Random) -> Bad:
    body, kind = form([image(rng)], rng.choice(["image", "file", "", "images[]"]))
    return Bad(
        "broken form", post(_path(rng), damaged(rng, body), rng.choice([kind, "multipart/form-data", kind + "x"]))
    )


def wrong_format(rng: random.Random) -> Bad:
    return Bad("wrong format", post("/predict", image(rng, "TIFF"), "image/png"))


def not_an_image(rng: random.Random) -> Bad:
    texts = [b"", b"hello", b"http://127.0.0.1/", b"\0" * 500, b"<svg xmlns='x'/>", b"%PDF-1.7", rng.randbytes(300)]
    return Bad("not an image", post("/predict", rng.choice(texts), "image/png"))


def pixel_bomb(rng: random.Random) -> Bad:
    return Bad("bomb", post("/predict", BOMB, "image/png"))


def bad_json(rng: random.Random) -> Bad:
    bodies = [b"{", b"[]", b"null", b'{"inputs": 3}', b"[" * 900, b'{"inputs":[{"name":"images","shape":[1e99]}]}']
    return Bad("bad JSON", post("/v2/models/guard/infer", rng.choice(bodies) + rng.randbytes(2), "application/json"))


def wrong_path(rng: random.Random) -> Bad:
    path = rng.choice(
        ["/admin", "/..", "/%00", "/predict/" + "x" * rng.randrange(500), "/v2/models/none", "//", "/.git"]
    )
    return Bad("wrong path", post(path, b"x", "text/plain"))


def wrong_method(rng: random.Random) -> Bad:
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "BREW", "OPTIONS"])
    request = post(rng.choice(["/predict", "/predict_batch"]), b"", "image/png")
    return Bad("wrong method", request.replace(b"POST", method.encode(), 1))


def wrong_query(rng: random.Random) -> Bad:
    query = rng.choice(["threshold=1", "model=none", "model=guard&model=x", "=", "a=%ff%00", "x" * 900])
    return Bad("wrong query", post(f"/predict?{query}", image(rng), "image/png"))


def odd_headers(rng: random.Random) -> Bad:
    name, value = rng.choice(
        [
            ("Content_Encoding", "gzip"),
            ("Content_Encoding", "br"),
            ("Traceparent", "00-zz-zz-99"),
            ("Authorization", "Bearer \x7f"),
            ("Cookie", "x" * 3000),
            ("X_Request_Id", "a" * 500),
            ("Inference_Header_Content_Length", rng.choice(["-1", "x", "99999999999999999999"])),
        ]
    )
    return Bad("odd headers", post(_path(rng), damaged(rng, image(rng)), "image/png", **{name: value}))


def huge_header(rng: random.Random) -> Bad:
    return Bad("huge header", post("/predict", b"x", "image/png", X="a" * 100_000), http=False)


def garbage(rng: random.Random) -> Bad:
    return Bad(
        "garbage", rng.choice([rng.randbytes(200), b"\x16\x03\x01\x02\0\x01", b"GET\r\n\r\n"]) + b"\r\n\r\n", http=False
    )


def bad_length(rng: random.Random) -> Bad:
    length = rng.choice([b"-5", b"abc", b"99999999999999999999"])
    return Bad(
        "bad length", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n", http=False
    )


def leaving(rng: random.Random) -> Bad:
    request = post(_path(rng), image(rng), "image/png")
    return Bad("leaving", request[: rng.randrange(1, len(request))], "leave", http=False)


def half_a_body(rng: random.Random) -> Bad:
    request = post("/predict", image(rng), "image/png")
    return Bad("half a body", request[:-5], "half")


MAKERS: tuple[Callable[[random.Random], Bad], ...] = (
    *(broken_image, broken_image_in_a_form, broken_form, wrong_format, not_an_image, bad_json, wrong_path),
    *(wrong_method, wrong_query, odd_headers, huge_header, garbage, bad_length, leaving),
)
RARE = (pixel_bomb, half_a_body)  # one in fifty


def bad_requests(count: int, seed: int = 0) -> Iterator[Bad]:
    """`count` of them, every kind in turn."""
    rng = random.Random(seed)
    for i in range(count):
        maker = RARE[(i // 50) % len(RARE)] if i % 50 == 49 else MAKERS[i % len(MAKERS)]
        yield maker(rng)
