"""Rejection networks on outliers that are made once, before the head is trained: DMR, KIRBY and their kin.

No method by itself: what those share. The outliers go into a store (``out/outliers/<synthesiser>``), whose features
under the frozen classifier are computed once.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from guard.manifest import Record

from ..method import Context, Synthesiser
from ..synthesis.images import image_source
from ..synthesis.match import Matched, checked
from ..synthesis.registry import create_synthesiser, get_synthesiser
from ..synthesis.store import Stored
from .rejection import FrozenRejection, RejectionHeadOptions

PER_DRAW = 128  # outliers that the synthesiser makes at once


class StoredRejectionOptions(RejectionHeadOptions):
    """As `RejectionHeadOptions`. `store_size`: outliers to make; None: one per training image, at most 50,000."""

    store_size: int | None = Field(default=None, ge=1)


class StoredRejection(FrozenRejection):
    """A rejection network on a store of outliers; ``outliers=`` names images or a store to take in its place."""

    Options = StoredRejectionOptions

    def outliers(self, context: Context, count: int) -> Synthesiser:
        if context.outliers:
            source = image_source(context.outliers, count, context.num_classes)
            match = checked(self.options.match, online=True)
            return Matched(source, match) if match else source
        return self.made(context, count)

    def made(self, context: Context, count: int) -> Synthesiser:
        """The outliers of the method itself: those of the synthesiser of the same name."""
        return self.stored(self.name, context, count)

    def stored(self, name: str, context: Context, count: int, **more: Any) -> Stored:
        """The store of synthesiser `name`, with the options that it shares with the method."""
        options = shared_options(self.options, get_synthesiser(name).Options) | more
        per_draw = min(PER_DRAW, self.options.store_size or PER_DRAW)
        synthesiser = create_synthesiser(name, per_draw, context.num_classes, **options)
        return Stored(synthesiser, count, self.options.store_size, match=self.options.match)


def shared_options(given: Record, wanted: type[Record]) -> dict[str, Any]:
    """The values in `given` of the fields that `wanted` has too."""
    return {name: getattr(given, name) for name in wanted.model_fields if name in type(given).model_fields}
