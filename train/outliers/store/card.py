"""``card.json``: everything about an outlier store except its images."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from guard.artefact.files import write_atomic
from guard.data import ImageData
from guard.errors import ArtefactDamagedError, ArtefactNotFoundError, ArtefactVersionError, ConfigError
from guard.record import Record

from ...cache.keyed import LONG, rows_digest
from ..audit.record import Audit

NAME = "card.json"
FORMAT_VERSION = 1
_MAY_DIFFER = {"count", "versions", "audit", "in_distribution"}  # the maker says the last
_MAY_DIFFER |= {"class_names"}  # part of the data's fingerprint


class SourceCard(Record):
    """The in-distribution images that outliers were made from; `rows` tells which part of them (16 hex digits), and
    `geometry` how they came to their size, where it is not the default."""

    name: str
    fingerprint: str
    images: int
    rows: str
    geometry: dict[str, Any] = {}


class Card(Record):
    """How a store was made. Two stores with equal cards hold equal images (on one kind of device).

    Attributes:
        synthesiser, options: its name, and all its options with their defaults.
        revision: the synthesiser's (`ImageSynthesiser.revision`); 1 in stores of versions that had none.
        seed: of everything random; shard i uses (seed, i).
        count: images in all.
        shard_size: images per shard; the last one may hold fewer.
        batch_size: in-distribution images per draw; `per_draw` outliers are made of them.
        match: what the outliers were matched to in-distribution images in.
        height, width, channels: of every image.
        classifier: digest of the classifier that was used, where the synthesiser needs one.
        model: digest of the model that decoded them, where one was trained first that runs can share
            (`train.cache.shared_model.SharedOptions`). None in stores of earlier versions, too.
        class_names: of the parent classes in column ``parents``.
        in_distribution: whether the images are further ones of the classes (Dream-ID), and no outliers.
        audit: what `train.outliers.audit.audit` measured.
    """

    format_version: int = FORMAT_VERSION
    synthesiser: str
    options: dict[str, Any] = {}
    revision: int = 1
    seed: int
    count: int = Field(ge=1)
    shard_size: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    per_draw: int = Field(ge=1)
    match: tuple[str, ...] = ()
    data: SourceCard
    height: int
    width: int
    channels: int
    classifier: str | None = None
    model: str | None = None
    class_names: tuple[str, ...] = ()
    in_distribution: bool = False
    versions: dict[str, str] = {}
    audit: Audit | None = None

    def shards(self) -> list[int]:
        """Images of each shard."""
        whole, rest = divmod(self.count, self.shard_size)
        return [self.shard_size] * whole + ([rest] if rest else [])

    def differences(self, asked: Card) -> dict[str, str]:
        """Field -> "old then, new now" of all that decide the images and differ; a model that is not known does not."""
        unknown = {"model"} if None in (self.model, asked.model) else set()
        then, now = (_flat(card.model_dump(mode="json", exclude=_MAY_DIFFER | unknown)) for card in (self, asked))
        keys = dict.fromkeys([*now, *then])
        return {
            k: f"{then.get(k)!r} then, {now.get(k)!r} now" for k in keys if then.get(k) != now.get(k)
        }  # an option that is new in this version is None then


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def source_card(data: ImageData) -> SourceCard:
    """What identifies `data`, also where it is a part of its source."""
    rows = rows_digest(data.rows)[:LONG]
    return SourceCard(
        name=data.name, fingerprint=data.fingerprint, images=len(data), rows=rows, geometry=data.preprocess.geometry()
    )


def write_card(folder: Path, card: Card) -> None:
    """Replace the folder's card in one step."""
    write_atomic(folder / NAME, card.model_dump_json(indent=1).encode() + b"\n")


def read_card(folder: Path) -> Card | None:
    """The card of a store; None where there is none.

    Raises:
        ArtefactDamagedError, ArtefactVersionError: it cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        card = Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        if (version := _version(path)) not in (None, FORMAT_VERSION):
            raise ArtefactVersionError(
                f"{path} has store format version {version!r}; this ood-guard reads version {FORMAT_VERSION}: "
                "make the store again"
            ) from None
        where = ".".join(str(part) for part in first["loc"])
        raise ArtefactDamagedError(
            f"{path} is not the card of an outlier store, or is damaged ({where}: {first['msg']}); make the store again"
        ) from None
    if card.format_version != FORMAT_VERSION:
        raise ArtefactVersionError(
            f"{path} has store format version {card.format_version}; this ood-guard reads version {FORMAT_VERSION}: "
            "make the store again"
        )
    return card


def _version(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_bytes()).get("format_version")
    except (ValueError, AttributeError):
        return None


def existing_card(folder: Path) -> Card:
    """The card of a store that must be there."""
    card = read_card(folder)
    if card is None:
        raise ArtefactNotFoundError(f"{folder} is not an outlier store (it has no {NAME}); make one with guard synth")
    return card


def check_same(folder: Path, card: Card, asked: Card, ignore: Collection[str] = ()) -> None:
    """Refuse to continue a store that was made otherwise.

    Raises:
        ConfigError: names every field that differs, and a store that holds more images than are asked for.
    """
    differing = [f"{k}: {text}" for k, text in card.differences(asked).items() if k not in ignore]
    if differing:
        raise ConfigError(
            f"{folder} holds outliers made otherwise ({'; '.join(differing)}); ask for the same, "
            "or choose another folder"
        )
    if asked.count < card.count:
        raise ConfigError(
            f"{folder} holds {card.count} outliers and {asked.count} are asked for; a store only grows: ask for at "
            f"least {card.count}, or choose another folder"
        )
