"""What the service answers when it does not answer with a verdict."""

from __future__ import annotations


class Refusal(Exception):
    """An HTTP status and one sentence for the client; never a defect of ours.

    Attributes:
        status: 4xx for what the client can mend, 503 for overload.
        sentence: names the value, what is accepted, and the fix.
        headers: sent along, e.g. Retry-After.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers or {}


def overloaded(sentence: str) -> Refusal:
    """503 at once: the work was not begun, so the client may send the same request again in a second."""
    return Refusal(503, sentence, {"Retry-After": "1"})
