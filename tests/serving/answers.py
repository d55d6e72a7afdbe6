"""What the tests send to the service, and the form of a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx

Encode = Callable[..., bytes]
RED, DARK, BLUE = (255, 0, 0), (5, 5, 5), (10, 30, 240)


def refused(response: httpx.Response, status: int, sentence: str) -> None:
    """The status, and a body that is {"error": one sentence} and nothing else."""
    assert (response.status_code, response.text) == (status, response.text)
    body = response.json()
    assert list(body) == ["error"]
    assert re.search(sentence, body["error"]), body["error"]
    assert "\n" not in body["error"]
