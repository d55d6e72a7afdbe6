"""Does the service survive what is sent to it?

    python -m benchmarks.serving_bad_requests           # 10,000 bad requests with 97 % good ones between; 10 minutes
    python -m benchmarks.serving_bad_requests --quick --bad 500

`bad_requests.py` says which are sent. Every answer must be 2xx or 4xx with one sentence, and every good one right.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bad_requests import BOMB, Bad, bad_requests
from benchmarks.load import post, run
from benchmarks.service_watch import good_requests, memory_mib, write

SHARE = 0.97  # of good requests


class BadSender(threading.Thread):
    """Sends bad requests one after another, as many as the good ones allow, and judges the answers.

    Attributes:
        answers: by (kind, status); status 0 for a connection that was closed unanswered.
        wrong: answers that are no 2xx and not 4xx with one sentence.
    """

    def __init__(self, base: str, requests: list[Bad], allowed: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._address = (urlsplit(base).hostname or "", urlsplit(base).port or 80)
        self._requests = requests
        self._allowed = allowed
        self.sent = 0
        self.answers: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        for bad in self._requests:
            while self.sent >= self._allowed():
                time.sleep(0.002)
            answer = ask(self._address, bad)
            self.sent += 1
            self.answers[bad.kind, status_of(answer)] += 1
            if (complaint := judged(bad, answer)) is not None:
                self.wrong.append(f"{bad.kind}: {complaint}")


def ask(address: tuple[str, int], bad: Bad) -> bytes:
    """What comes back, up to its end or the connection's."""
    answer = b""
    with suppress(OSError), socket.create_connection(address, timeout=30) as connection:
        connection.sendall(bad.data)
        if bad.how == "leave":
            return b""
        while chunk := connection.recv(65536):
            answer += chunk
            head, found, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if found and length and len(body) >= int(length[1]):
                break
    return answer


def status_of(answer: bytes) -> int:
    """0 where there is none."""
    found = re.match(rb"HTTP/1.[01] (\d{3})", answer)
    return int(found[1]) if found else 0


def judged(bad: Bad, answer: bytes) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    status, body = status_of(answer), answer.partition(b"\r\n\r\n")[2]
    if not status:
        return "no answer" if bad.http and bad.how != "leave" else None
    if 200 <= status < 400:
        return None
    if not 400 <= status < 500:
        return f"{status} {body[:200]!r}"
    if not bad.http:  # the server's own words, for what is not HTTP
        return None
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"{status} without a sentence: {body[:200]!r}"
    return None if isinstance(error, str) and error and "\n" not in error else f"{status} {error!r}"


def bad_campaign(path: Path, count: int, seed: int, share: float = SHARE) -> dict[str, Any]:
    """Both kinds of traffic until `count` bad requests are answered; good ones are at least `share` of all."""
    from serving.runner import running_service

    good, right = good_requests(path)
    lost: list[bytes] = []
    done = [0]

    def check(index: int, answer: bytes) -> None:
        done[0] += 1
        if not right[index](answer):
            lost.append(answer[-300:])

    settings = {"GUARD_TIMEOUT_S": "4", "GUARD_THREADS": "1"}
    with running_service(path, device="cpu", env=settings, timeout_s=180) as base:
        run(base, good, concurrency=8, seconds=5)
        before = memory_mib(base)
        senders: list[BadSender] = []
        requests = list(bad_requests(count, seed))

        def allowed() -> int:
            return 1 + int(done[0] * (1 - share) / share / len(senders))

        senders += [BadSender(base, requests[i::4], allowed) for i in range(4)]
        for sender in senders:
            sender.start()
        began = time.perf_counter()
        load = None
        while any(sender.is_alive() for sender in senders):
            load = run(base, good, concurrency=8, seconds=2, seed=done[0], check=check)
            if load.broken or set(load.statuses) != {200}:
                lost.append(f"{load.broken} broken, {dict(load.statuses)}".encode())
        seconds = time.perf_counter() - began
        after = memory_mib(base)
        bombs = [timed_bomb(base) for _ in range(20)]
    answers = sum((sender.answers for sender in senders), Counter[tuple[str, int]]())
    by_status: Counter[int] = Counter()
    for (_, status), n in answers.items():
        by_status[status] += n
    return {
        "bad": sum(answers.values()),
        "good": done[0],
        "seconds": round(seconds),
        "good_lost_or_wrong": len(lost),
        "lost": [text.decode(errors="replace") for text in lost[:5]],
        "wrong_answers": sum(len(sender.wrong) for sender in senders),
        "wrong": [text for sender in senders for text in sender.wrong][:10],
        "bad_by_status": {str(status): n for status, n in sorted(by_status.items())},
        "memory_mib": [round(before, 1), round(after, 1)],
        "bomb_ms": {"median": statistics.median(bombs), "largest": max(bombs)},
    }


def timed_bomb(base: str) -> float:
    """Milliseconds until 144 megapixels are refused."""
    address = (urlsplit(base).hostname or "", urlsplit(base).port or 80)
    began = time.perf_counter()
    answer = ask(address, Bad("bomb", post("/predict", BOMB, "image/png")))
    assert status_of(answer) == 400, answer
    return (time.perf_counter() - began) * 1e3


def bad_report(r: dict[str, Any]) -> str:
    statuses = ", ".join(f"{n} x {status if status != '0' else 'closed'}" for status, n in r["bad_by_status"].items())
    return f"""# Serving: bad requests between good ones

| | |
| --- | --- |
| bad requests | {r["bad"]}: {statuses} |
| good requests between | {r["good"]} ({r["good"] / (r["good"] + r["bad"]):.1%}) |
| answers that are neither 2xx nor 4xx with one sentence | {r["wrong_answers"]} |
| good answers lost or wrong | {r["good_lost_or_wrong"]} |
| memory before and after, MiB | {r["memory_mib"][0]}, {r["memory_mib"][1]} |
| 144 megapixels refused after, ms | {r["bomb_ms"]["median"]:.1f} (largest of 20: {r["bomb_ms"]["largest"]:.1f}) |
"""


def main() -> None:
    """Parse, run, write."""
    from benchmarks.serving import artefact

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bad", type=int, default=10_000, help="bad requests")
    parser.add_argument("--share", type=float, default=SHARE, help="of good requests, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="writes nothing")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        record = bad_campaign(artefact(Path(folder), "wrn16_2", 32), args.bad, args.seed, args.share)
    print(bad_report(record), *record["wrong"], *record["lost"], sep="\n")
    if not args.quick:
        write("serving_bad_requests", record, bad_report(record), load)


if __name__ == "__main__":
    main()
