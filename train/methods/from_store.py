"""Methods whose outliers are made once, before they are trained on: in a store, ``out/outliers/<synthesiser>``.

No method by itself: the store, what ``outliers=`` names in its place, and the rejection networks of DMR, KIRBY and
their kin, for which the features of a store under the frozen classifier are computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guard.record import Record, option

from ..outliers.base import Synthesiser, create_synthesiser, get_synthesiser
from ..outliers.matching import Matched, checked
from ..outliers.sources import image_source
from ..outliers.store.drawing import Stored
from .base import MethodContext
from .rejection import FrozenRejection, RejectionHeadOptions

PER_DRAW = 128  # outliers that the synthesiser makes at once


class StoredRejectionOptions(RejectionHeadOptions):
    """As `RejectionHeadOptions`, for a store."""

    store_size: int | None = option(
        None, "Outliers to make; default one per training image, at most 50,000.", common=True, ge=1
    )


class StoredRejection(FrozenRejection):
    """A rejection network on a store of outliers; ``outliers=`` names images or a store to take in its place."""

    Options = StoredRejectionOptions

    def outliers(self, context: MethodContext, count: int) -> Synthesiser:
        return given_or(lambda: self.made(context, count), context, count, self.options.match)

    def made(self, context: MethodContext, count: int) -> Synthesiser:
        """The outliers of the method itself: those of the synthesiser of the same name."""
        return filled_store(self.name, self.options, context, count)


def given_or(
    own: Callable[[], Synthesiser], context: MethodContext, count: int, match: tuple[str, ...] = ()
) -> Synthesiser:
    """`count` outliers per step: what ``outliers=`` names, matched where asked, or else a method's own."""
    if not context.outliers:
        return own()
    source = image_source(context.outliers, count, context.num_classes)
    online = checked(match, online=True)
    return Matched(source, online) if online else source


def filled_store(
    name: str,
    options: Any,
    context: MethodContext,
    count: int,
    *,
    at_once: int = PER_DRAW,
    total: int | None = None,
    kind: type[Stored] = Stored,
    **more: Any,
) -> Stored:
    """A store that synthesiser `name` fills, with the options that it shares with the method's.

    Args:
        options: the method's: its `store_size`, and `match` where it has one, are the store's.
        count: outliers per step.
        at_once: outliers per draw, at most.
        total: outliers in all; None: `store_size`.
        more: further options of the synthesiser.
    """
    total = total or options.store_size
    mine = shared_options(options, get_synthesiser(name).Options) | more
    synthesiser = create_synthesiser(name, min(at_once, total or at_once), context.num_classes, **mine)
    return kind(synthesiser, count, total, match=getattr(options, "match", ()))


def shared_options(given: Record, wanted: type[Record]) -> dict[str, Any]:
    """The values in `given` of the fields that `wanted` has too."""
    return {name: getattr(given, name) for name in wanted.model_fields if name in type(given).model_fields}
