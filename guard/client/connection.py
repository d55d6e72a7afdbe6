"""Where a client connects to and how: address, token, time; checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import ConfigError, MissingExtraError
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
        parts = urlsplit(self.url) if isinstance(self.url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url must be like http://127.0.0.1:3000, got {self.url!r}")
        if parts.query or parts.fragment:
            raise ConfigError(f"url must be an address without ? and #, got {self.url!r}")
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ConfigError("token must be the service's GUARD_TOKEN: printable ASCII characters, at least one")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s must be above 0, got {self.timeout_s!r}")
        if self.retries.most < 0:
            raise ConfigError(f"retries must be 0 or more, got {self.retries.most}")

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
            import httpx  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("httpx", "client") from error
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        address = self.url if self.url.endswith("/") else f"{self.url}/"
        made = {"base_url": address, "headers": headers, "timeout": self.timeout_s}
        return made if transport is None else {**made, "transport": transport}
