"""Which answers are asked for again, and when: overload that the service announced, and connections that broke.

A prediction may be repeated: it changes nothing but the service's counters. What the client itself did wrong (4xx) and
what took longer than its timeout is not asked for again.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

OVERLOADED = (429, 503)


@dataclass(frozen=True, slots=True)
class Retries:
    """How patient a client is.

    Attributes:
        most: times a request is sent again.
        longest_wait_s: longest pause before one of them, whatever Retry-After says.
        first_wait_s: pause before the first where the service names none; each later one is twice as long.
    """

    most: int = 4
    longest_wait_s: float = 10.0
    first_wait_s: float = 0.1

    def wait_s(self, attempt: int, headers: Mapping[str, str]) -> float:
        """Seconds before attempt + 1; up to a quarter longer than asked for, so that clients do not come back at once.

        Args:
            attempt: how many were made already, 1 ..
            headers: of the answer; empty where the connection broke.
        """
        asked = retry_after_s(headers.get("retry-after"))
        wait = self.first_wait_s * 2 ** (attempt - 1) if asked is None else asked
        return min(wait * random.uniform(1.0, 1.25), self.longest_wait_s)


def retry_after_s(value: str | None) -> float | None:
    """Seconds from now that a Retry-After header names (RFC 9110, section 10.2.3): a number, or a date; None without
    one that can be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
