"""Whether outliers that are not ready at once (`Outliers.ready`) become so before training ends, and teach."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from guard.errors import ConfigError
from guard.scores import Score

if TYPE_CHECKING:
    from guard.data import ImageData

    from ..methods.base import Stage
    from ..outliers.base import Synthesiser
    from .epochs import Epochs

log = logging.getLogger("ood_guard")

READY = "outliers_ready"  # a number of every epoch: the share of its steps in which they counted


class Readiness:
    """Warns of outliers of a stage that are never ready, and refuses a score that is learned from them."""

    def __init__(self, stage: Stage, score: Score) -> None:
        self.stage, self.score, self.said = stage, score, False

    def foresee(self, synthesiser: Synthesiser, epochs: Epochs, data: ImageData) -> None:
        """Before the first epoch, as far as the order of the images tells (`Synthesiser.ready_after`).

        Raises:
            ConfigError: they will never be ready, and the score is learned from them.
        """
        classes, views = len(data.class_names), self.stage.views
        shown = torch.zeros(0, classes, dtype=torch.int64)
        for epoch in range(self.stage.epochs):
            if synthesiser.ready_after(shown):
                return
            labels = torch.from_numpy(np.array(data.labels))[epochs.order(epoch)]
            shown = torch.cat([shown, views * torch.bincount(labels, minlength=classes)[None]])
        if not synthesiser.ready_after(shown):
            self._say()

    def see(self, epoch: int, share: float | None) -> None:
        """After an epoch; `share` is its `READY`, None where outliers are ready at once. Raises as `foresee`."""
        if epoch + 1 == self.stage.epochs and share == 0 and not self.said:
            self._say()

    def _say(self) -> None:
        self.said, count = True, self.stage.epochs
        why = (
            f"stage {self.stage.name!r} of {count} {'epoch' if count == 1 else 'epochs'} ends before its outliers are "
            "ready, which wait for a queue of every class's features; give more epochs, or a smaller queue="
        )
        if any(part.trained_by for part in self.score.parts()):
            raise ConfigError(f"score {self.score.name!r} would have learned nothing: {why}")
        log.warning("the outliers teach nothing: %s", why)
