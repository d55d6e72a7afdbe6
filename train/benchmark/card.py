"""The card in a run's folder: what was trained there, and how long it took."""

from __future__ import annotations

from pathlib import Path

from guard.errors import ArtefactDamagedError
from guard.record import Record

CARD = "benchmark.json"


class Card(Record):
    """What a run folder holds: the identity of the training, the seconds it has taken, and those of the runs that it
    starts from; and what the file asked for, which is known without the images ("" of versions that did not say)."""

    identity: str
    seconds: float = 0.0
    before: float = 0.0
    asked: str = ""


def card_of(folder: Path) -> Card | None:
    """The card in a run folder; None where there is none.

    Raises:
        ArtefactDamagedError: it cannot be read.
    """
    try:
        return Card.model_validate_json((folder / CARD).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ArtefactDamagedError(f"{folder / CARD} is damaged ({reason}); remove the folder to train anew") from None
