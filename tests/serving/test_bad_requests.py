"""What the service refuses over real HTTP, and in which words; nothing that a client sends gets a 500."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import zlib
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.serving.answers import BLUE, RED, Encode, refused


def bomb(side: int) -> bytes:
    """A tiny PNG whose header claims side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 99) + b"IDAT"


def test_a_tiff_is_refused_whatever_it_says_it_is(client: httpx.Client, encode: Encode) -> None:
    data = encode(BLUE, size=(40, 30), format="TIFF")
    refused(client.post("/predict", files={"image": ("a.png", data, "image/png")}), 400, "TIFF images are not accepted")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the image is empty"),
        (b"hello, I am text", "not an image; accepted: JPEG, PNG, WEBP, GIF, BMP"),
        (b"http://169.254.169.254/latest/meta-data", "not an image"),
        (b'{"image": "file:///etc/passwd"}', "not an image"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0" * 50, "JPEG2000 images are not accepted here"),
        (bomb(20_000), r"too large: 20000 x 20000 = 400\.0 megapixels, at most 1 are accepted"),
        (bomb(500), "damaged or cut short PNG image"),
    ],
)
def test_what_is_not_an_image_gets_a_sentence(client: httpx.Client, body: bytes, sentence: str) -> None:
    refused(client.post("/predict", content=body), 400, sentence)
    refused(client.post("/predict", files={"image": ("x.png", body)}), 400, sentence)


def test_a_truncated_image(client: httpx.Client) -> None:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    refused(client.post("/predict", content=file.getvalue()[:-400]), 400, "damaged or cut short JPEG image")


def test_wrong_fields_and_forms(client: httpx.Client, encode: Encode) -> None:
    image = encode(RED)
    refused(client.post("/predict", files={"file": image}), 400, "unknown field 'file'; .* in the field 'image'")
    refused(client.post("/predict", files=[("image", image), ("image", image)]), 413, "more than 1 image")
    refused(client.post("/predict_batch", content=image), 400, "send multipart/form-data")
    refused(client.post("/predict_batch", files={"photos": image}), 400, "unknown field 'photos'; .*'images' or")
    broken = {"content-type": "multipart/form-data; boundary=abc"}
    refused(client.post("/predict", content=image, headers=broken), 400, "malformed or cut short")
    refused(client.post("/predict", content=b"--abc--\r\n", headers=broken), 400, "has no parts|malformed")
    refused(client.post("/predict", content=image, headers={"content-type": "multipart/form-data"}), 400, "boundary")
    refused(client.post("/predict", content=image, headers={"content-encoding": "gzip"}), 415, "encoding 'gzip'")


def test_a_bad_image_in_a_batch_is_named_and_nothing_is_scored(client: httpx.Client, encode: Encode) -> None:
    form = [("images", (f"{name}.png", data)) for name, data in [("a", encode(RED)), ("b", b"text"), ("c", b"")]]
    refused(client.post("/predict_batch", files=form), 400, r"^image 1 \('b\.png'\): not an image")


def test_limits(client: httpx.Client, encode: Encode) -> None:
    refused(client.post("/predict", content=b"x" * 300_001), 413, "larger than 300000 bytes.*GUARD_MAX_BYTES")
    assert client.post("/predict", content=b"x" * 300_000).status_code == 400
    image = ("big.png", b"x" * 300_001)
    refused(client.post("/predict", files={"image": image}), 413, "300001 bytes, at most 300000")
    batch = [("images", ("ok.png", encode(RED))), ("images", image)]
    refused(client.post("/predict_batch", files=batch), 413, r"^image 1 \('big\.png'\): the image has 300001 bytes")
    refused(client.post("/predict_batch", files=[("images", b"x" * 200_000)] * 3), 413, "GUARD_MAX_BATCH_BYTES")
    refused(client.post("/predict_batch", files=[("images", encode(RED))] * 9), 413, "more than 8 images")

    def chunks():  # no content-length: what arrives is counted
        for _ in range(400):
            yield b"x" * 1000

    refused(client.post("/predict", content=chunks()), 413, "larger than 300000 bytes")
    huge = client.post("/predict", content=b"x" * 20_000_000)  # the rest of a refused body harms nobody
    refused(huge, 413, "larger than 300000 bytes")
    assert client.post("/predict", content=encode(RED)).status_code == 200


def test_paths_and_methods(client: httpx.Client) -> None:
    refused(client.get("/nothing/here"), 404, "no such path; there are /predict, /predict_batch, /model")
    refused(client.get("/predict"), 405, "/predict takes POST only")
    assert client.get("/predict").headers["allow"] == "POST"
    refused(client.post("/model"), 405, "/model takes GET only")
    refused(client.post("/readyz"), 405, "/readyz takes GET only")
    refused(client.request("BREW", "/predict_batch"), 405, "takes POST only")


def test_a_body_that_says_it_is_too_large_is_not_waited_for(service: str) -> None:
    host = urlsplit(service)
    with socket.create_connection((host.hostname, host.port), timeout=1) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_never_comes_gets_408(service: str) -> None:
    host = urlsplit(service)
    with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # until the service closes
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"].startswith("the body did not arrive within 3 seconds")


# --------------------------------------------------------------------------------------------------------------- fuzz


def test_nothing_a_client_sends_gets_a_500(client: httpx.Client, encode: Encode) -> None:
    rng = np.random.default_rng(0)
    seeds = []
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        data = encode(BLUE, size=(20, 20), format=format)
        request = httpx.Request("POST", "http://x", files=[("image", ("a", data)), ("image", ("b", data))])
        seeds += [(data, "image/png"), (request.read(), request.headers["content-type"])]
    headers = [
        ("content-type", "multipart/form-data; boundary=" + "x" * 200),
        ("content-type", "multipart/form-data; charset=nonsense; boundary=%00"),
        ("content-type", 'multipart/form-data; boundary="; name="'),
        ("content-type", "\xff\xfe/\x80"),
        ("content-encoding", "br"),
        ("accept", "text/nothing"),
        ("range", "bytes=5-1"),
        ("x-forwarded-for", "' OR 1=1"),
        ("traceparent", "00-zz-zz-99"),
        ("baggage", "a=%zz,,="),
        ("authorization", "\x7f"),
        ("expect", "200-ok"),
    ]
    seen = set()
    for round_ in range(300):
        body, content_type = seeds[rng.integers(len(seeds))]
        mutated = bytearray(body)
        for _ in range(rng.integers(0, 12)):
            mutated[rng.integers(len(mutated))] = rng.integers(256)
        if rng.random() < 0.3:
            mutated = mutated[: rng.integers(len(mutated) + 1)]
        if rng.random() < 0.1:
            mutated = mutated + mutated
        sent = {"content-type": content_type}
        if rng.random() < 0.3:
            name, value = headers[round_ % len(headers)]
            sent[name] = value
        path = ("/predict", "/predict_batch")[int(rng.integers(2))]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        response = client.post(path, content=bytes(mutated), headers=raw)
        seen.add(response.status_code)
        if response.status_code != 200:
            refused(response, response.status_code, ".")
    assert seen <= {200, 400, 413, 415}
    assert {200, 400, 413} <= seen  # or the mutations were too weak or too strong to show anything
    assert client.post("/predict", content=encode(RED)).json()["class_name"] == "red"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n\r\n",
        b"POST /%ff%00/../predict?%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST http://other/predict HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ui HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_malformed_http_gets_no_500(service: str, client: httpx.Client, request_: bytes) -> None:
    host = urlsplit(service)
    with socket.create_connection((host.hostname, host.port), timeout=20) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert re.match(rb"HTTP/1.1 [234]\d\d ", answer) or answer == b"", answer[:200]
    assert client.get("/readyz").status_code == 200
