"""An outlier store on disk: a folder of Parquet shards and a card.

    shard-00000.parquet ...   images (PNG), parent classes, how each was made      shards.py
    card.json                 how all were made; what an audit found               card.py
    gallery.html              a page to look at                                    gallery.py
    (whatever the synthesiser trained to make them)

`fill.fill` makes one, `drawing.Stored` draws from it in training; `guard.data.load(folder, labelled=False)` and
`datasets` read it as images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guard.data import ImageData, load
from guard.errors import ArtefactDamagedError
from guard.manifest import Preprocess

from .card import Card, existing_card
from .shards import count_rows, shard_path


@dataclass(frozen=True)
class Store:
    """An outlier store: its folder and what its card says."""

    folder: Path
    card: Card

    def __len__(self) -> int:
        return self.card.count

    @property
    def gallery(self) -> Path | None:
        """Its page, where there is one."""
        path = self.folder / "gallery.html"
        return path if path.exists() else None

    def paths(self) -> list[Path]:
        """Its shards, in order."""
        return [shard_path(self.folder, i) for i in range(len(self.card.shards()))]

    def images(self, preprocess: Preprocess | None = None, workers: int | None = None) -> ImageData:
        """Its images, read as in-distribution images of `preprocess` are; default as they are.

        Raises:
            ArtefactDamagedError: shards are missing, or hold images that cannot be read.
        """
        card = self.card
        missing = missing_shards(self.folder, card)
        if missing:
            raise ArtefactDamagedError(
                f"{self.folder} lacks {len(missing)} of its {len(card.shards())} shards "
                f"(the first is {shard_path(self.folder, missing[0]).name}); make the store again, which resumes there"
            )
        own = Preprocess(height=card.height, width=card.width, channels=1 if card.channels == 1 else 3)
        found = load(str(self.folder), preprocess=preprocess or own, labelled=False, workers=workers)
        if found.corrupt:
            raise ArtefactDamagedError(
                f"{found.corrupt[0]}; remove that shard and make the store again, which makes only what is missing"
            )
        return found


def open_store(folder: str | Path) -> Store:
    """The store in `folder`, whole or not.

    Raises:
        ArtefactNotFoundError, ArtefactDamagedError, ArtefactVersionError: with a sentence that says which.
    """
    return Store(Path(folder), existing_card(Path(folder)))


def missing_shards(folder: Path, card: Card) -> list[int]:
    """Numbers of the shards that are not there, cannot be read, or hold another number of images."""
    return [i for i, size in enumerate(card.shards()) if count_rows(shard_path(folder, i)) != size]
