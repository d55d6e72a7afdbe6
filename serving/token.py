"""GUARD_TOKEN: who may ask. Compared in constant time, and neither logged nor repeated in an answer."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from .errors import Refusal

_REALM = 'Bearer realm="ood-guard"'


class Token:
    """The secret that a request must bring as ``Authorization: Bearer SECRET`` (RFC 6750).

    Args:
        secret: GUARD_TOKEN, or None for a service that anyone may ask.
    """

    def __init__(self, secret: str | None) -> None:
        self._digest = None if secret is None else _digest(secret)

    def __repr__(self) -> str:
        return f"Token({'none' if self._digest is None else 'set'})"

    def check(self, headers: Mapping[str, str]) -> None:
        """Return where the service has no token, or the request brings it.

        Raises:
            Refusal: 401, it does not.
        """
        if self._digest is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refusal(
                401,
                "this service needs its token; send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": _REALM},
            )
        # digests have one length, so that the time tells nothing of the token's
        if not hmac.compare_digest(_digest(given.strip()), self._digest):
            raise Refusal(
                401,
                "the token is not that of this service; send the one in its GUARD_TOKEN",
                {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'},
            )

    def demand(self, headers: Mapping[str, str]) -> None:
        """`check` for what nobody may do to a service without a token.

        Raises:
            Refusal: 403 where the service has none; 401 as `check`.
        """
        if self._digest is None:
            raise Refusal(403, "a service without a token takes no orders; start it with GUARD_TOKEN set")
        self.check(headers)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
