"""A closed-loop HTTP load in one thread: every connection sends its next request as soon as it has its answer.

Requests are bytes made before; answers are read to their content-length and not interpreted. One request costs the
client about 40 microseconds, so that it is not what is measured.
"""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np


def post(path: str, body: bytes, content_type: str, **headers: str) -> bytes:
    """One request, for a connection that stays open."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def form(images: Sequence[bytes], field_name: str) -> tuple[bytes, str]:
    """(body, content type) of a multipart form."""
    parts = [
        f'--limit\r\nContent-Disposition: form-data; name="{field_name}"; filename="{i}.{kind_of(image)}"\r\n'
        f"Content-Type: image/{kind_of(image)}\r\n\r\n".encode()
        + image
        + b"\r\n"
        for i, image in enumerate(images)
    ]
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


def kind_of(image: bytes) -> str:
    """png or jpeg, by its first bytes: BentoML reads an image as what it is said to be."""
    return "jpeg" if image.startswith(b"\xff\xd8") else "png"


@dataclass
class Load:
    """What came of it.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: (n,) seconds of each answer, and `ends`, when it came.
        codes: (n,) its status; `statuses` counts them.
        broken: connections that ended without an answer.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    broken: int = 0

    @property
    def statuses(self) -> Counter[int]:
        """Answers by status."""
        return Counter(self.codes)

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, q: float) -> float:
        """Of the latencies, in milliseconds."""
        return float(np.percentile(self.latencies, q)) * 1e3


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.socket: Any = None
        self.began = 0.0
        self.received = b""

    def send(self, request: bytes, selector: selectors.BaseSelector) -> None:
        for attempt in range(200):
            try:
                if self.socket is None:
                    self.socket = socket.create_connection(self.address, timeout=30)
                    self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(self.socket, selectors.EVENT_READ, self)
                self.began, self.received = time.perf_counter(), b""
                self.socket.sendall(request)
                return
            except OSError:  # between two workers there may be nobody
                self.close(selector)
                time.sleep(0.01 * min(attempt, 20))
        raise ConnectionError(f"nobody listens on {self.address}")

    def close(self, selector: selectors.BaseSelector) -> None:
        if self.socket is not None:
            selector.unregister(self.socket)
            self.socket.close()
            self.socket = None

    def answer(self) -> tuple[int, bool] | None:
        """(status, whether the connection stays open) once the answer is whole; ConnectionError where it breaks off."""
        chunk = self.socket.recv(262144)
        if not chunk:
            raise ConnectionError
        self.received += chunk
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return None
        return int(head[9:12]), b"\r\nconnection: close" not in lower


def run(
    base: str,
    requests: Sequence[bytes],
    *,
    concurrency: int,
    seconds: float,
    seed: int = 0,
    check: Callable[[int, bytes], None] | None = None,
    tick: Callable[[float], None] | None = None,
) -> Load:
    """Keep `concurrency` connections busy with `requests`, drawn at random.

    Args:
        base: ``http://host:port``.
        seconds: after which nothing new is sent.
        check: called with (index of the request, the whole answer).
        tick: called about every 0.1 s with the seconds gone by.
    """
    address = (urlsplit(base).hostname or "", urlsplit(base).port or 80)
    rng, load, selector = random.Random(seed), Load(), selectors.DefaultSelector()
    connections = {_Connection(address): 0 for _ in range(concurrency)}

    def send(connection: _Connection) -> None:
        connections[connection] = rng.randrange(len(requests))
        connection.send(requests[connections[connection]], selector)

    began = time.perf_counter()
    for connection in connections:
        send(connection)
    open_requests, ticked = concurrency, 0.0
    while open_requests:
        for key, _ in selector.select(0.1):
            connection = key.data
            try:
                answer = connection.answer()
            except OSError:
                load.broken += 1
                connection.close(selector)
                answer = (0, True)
            if answer is None:
                continue
            now = time.perf_counter()
            status, stays = answer
            if status:
                load.latencies.append(now - connection.began)
                load.ends.append(now - began)
                load.codes.append(status)
                if check is not None:
                    check(connections[connection], connection.received)
            if not stays:
                connection.close(selector)
            if now - began < seconds:
                send(connection)
            else:
                connection.close(selector)
                open_requests -= 1
        if tick is not None and time.perf_counter() - began - ticked > 0.1:
            ticked = time.perf_counter() - began
            tick(ticked)
    load.seconds = time.perf_counter() - began
    selector.close()
    return load
