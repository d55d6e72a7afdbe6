"""Where a client connects to and how: address, token, time; checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ..errors import ConfigError, MissingExtraError
from ..given import count_given, number_given
from .retrying import Retries


@dataclass(frozen=True, slots=True)
class Connection:
    """The arguments that both clients have.

    Attributes:
        url: the service's address, with a path where a proxy gives it one.
        token: its GUARD_TOKEN; not shown in a representation.
        timeout_s: seconds to connect, and to wait for each answer.
        retries: how patient to be.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url must be like http://127.0.0.1:3000, got {self.url!r}")
        if parts.query or parts.fragment:
            raise ConfigError(f"url must be an address without ? and #, got {self.url!r}")
        token = "" if self.token is None else self.token
        printable = isinstance(token, str) and token.isascii() and token.isprintable()
        if not printable or self.token == "":
            raise ConfigError("token must be the service's GUARD_TOKEN: printable ASCII characters, at least one")
        if number_given(self.timeout_s, "timeout_s") <= 0:
            raise ConfigError(f"timeout_s must be above 0, got {self.timeout_s!r}")
        count_given(self.retries.most, "retries", least=0)
        if number_given(self.retries.longest_wait_s, "longest_wait_s") < 0:
            raise ConfigError(f"longest_wait_s must be at least 0, got {self.retries.longest_wait_s!r}")

    @property
    def where(self) -> str:
        """The address for messages, without a password that may be in it."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")

    def options(self, transport: Any) -> dict[str, Any]:
        """What an `httpx` client is made with.

        Raises:
            MissingExtraError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("httpx", "client") from error
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        address = self.url if self.url.endswith("/") else f"{self.url}/"
        # requests that wait for a connection of the client's own have no limit: they were not sent yet
        made = {"base_url": address, "headers": headers, "timeout": httpx.Timeout(self.timeout_s, pool=None)}
        return made if transport is None else {**made, "transport": transport}


def _parts(url: Any) -> SplitResult | None:
    """Of an address; None where it is none, such as with a port that is not a number."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return None if parts is None or parts.port == 0 else parts
    except ValueError:
        return None
