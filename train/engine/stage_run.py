"""One stage of a training: its optimizers, its epochs, its step.

A step draws images, takes them forward, computes losses, and updates. Nothing in it waits for the device.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from guard.graph.module import GuardModule
from guard.graph.outputs import Outputs
from guard.heads import Head

from ..augmentations.base import AugmentContext, Chain, Mixed
from ..losses.base import Batch, Regulariser
from ..outliers.base import IDBatch, Learner, NoOutliers, Outliers, PrepareContext, Synthesiser
from ..outliers.matching import match_half
from .averaging import Average
from .best_epoch import BestEpoch
from .divided import average_gradients, check_divides, parameters_of
from .epochs import Epochs
from .forward import Forward
from .frozen_features import FrozenFeatures
from .optimizer import stage_optimizer
from .readiness import READY, Readiness
from .schedule import set_lr

if TYPE_CHECKING:
    from guard.data import ImageData

    from ..methods.base import Stage
    from ..runs.request import TrainConfig
    from .loader import Feed

log = logging.getLogger("ood_guard")

Losses = dict[str, Tensor]


class StageRun:
    """A stage of the method on the way: the `index`-th, from 0."""

    def __init__(
        self,
        module: GuardModule,
        stage: Stage,
        index: int,
        feed: Feed,
        config: TrainConfig,
        device: torch.device,
        pictures: Tensor | None = None,
        validation: ImageData | None = None,
    ) -> None:
        self.module, self.stage, self.index, self.config, self.device = module, stage, index, config, device
        self.classifier = module.classifier
        self.synthesiser: Synthesiser = (stage.synthesiser or NoOutliers()).to(device)
        self.regularisers: list[Regulariser] = [regulariser.to(device) for regulariser in stage.regularisers]
        self.averaged = Average(self.classifier, config.ema) if config.ema and stage.trains != "nothing" else None
        self.epochs = Epochs(stage.name, feed, stage.epochs, config.batch_size, config.seed, index, device)
        check_divides(self.epochs.batch_size)
        self.forward = Forward(module, stage, device)
        self.readiness = Readiness(stage, module.score)
        self.augment = (
            None
            if stage.trains == "nothing" or not stage.augmented
            else Chain(config.augment, _context(feed, module, config, device, pictures))
        )
        chosen = validation if stage.learns_labels_alone else None
        self.best = None if chosen is None else BestEpoch(self.classifier, chosen, device).to(device)
        self.frozen = FrozenFeatures(self.forward, feed, self.epochs.batch_size, device) if self.can_freeze() else None

    def can_freeze(self) -> bool:
        """Whether images go through a frozen network unchanged in every epoch."""
        as_they_are = self.config.augment == "none" or not self.stage.augmented
        unchanged = self.stage.trains == "nothing" or (self.stage.trains == "head" and as_they_are)
        return unchanged and not any(r.reads_map for r in self.regularisers)

    def prepare(self, context: PrepareContext) -> None:
        """What takes long and comes before the first epoch; the optimizer knows what regularisers make in it."""
        self.readiness.foresee(self.synthesiser, self.epochs, context.data)
        self.synthesiser.prepare(context)
        if self.stage.inliers is not None:
            self.stage.inliers.prepare(context)
        for regulariser in self.regularisers:
            regulariser.prepare(context)
        trained: nn.Module | None = self.classifier if self.stage.trains == "classifier" else None
        if self.stage.trains == "head":
            trained = self.forward.head
        self.optimizer = stage_optimizer(self.stage, trained, self.regularisers)

    def modules(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds; what belongs to this stage alone carries its number."""
        parts = {"classifier": self.classifier, f"synthesiser{self.index}": self.synthesiser}
        parts |= {f"regulariser{self.index}.{j}": part for j, part in enumerate(self.regularisers)}
        if self.averaged:
            parts[f"average{self.index}"] = self.averaged.shadow
        if self.best:
            parts[f"best{self.index}"] = self.best
        return parts

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """All of the stage's, by their checkpoint names."""
        found = {"classifier": self.optimizer}
        learners: list[tuple[str, Learner]] = [("synthesiser", self.synthesiser)]
        learners += [(f"regulariser.{j}", regulariser) for j, regulariser in enumerate(self.regularisers)]
        for name, learner in learners:
            found |= {f"{name}.{key}": optimizer for key, optimizer in learner.optimizers().items()}
        return found

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; mean loss terms, training accuracy, seconds."""
        began = time.perf_counter()
        active = epoch >= self.stage.start_epoch
        torch.manual_seed(self.epochs.seed_of(epoch))  # dropout
        generator = self.epochs.generator(epoch)
        if active:
            self.synthesiser.start_epoch(self.epochs.steps, generator)
        self.set_modes()
        regularisers = [r for r in self.regularisers if active and epoch >= r.start_epoch]
        if self.best and epoch == 0 and self.index > 0:  # what the stages before learned is a candidate too
            before = self.best.consider(self._judged, self.forward)
            log.info("held-out accuracy before %s: %.2f %%", self.stage.name, 100 * before)

        def step(batch: IDBatch, generator: torch.Generator, number: int) -> Losses:
            return self.step(batch, generator, active, number, regularisers)

        totals = self.epochs.run(epoch, step, before_step=self._set_lr, generator=generator)
        images = self.epochs.steps * self.epochs.batch_size
        numbers = {name: total / images for name, total in totals.items()}
        self.readiness.see(epoch, numbers.get(READY))
        if self.best:
            numbers["held_out_accuracy"] = self.best.consider(self._judged, self.forward)
        seconds = time.perf_counter() - began
        return {
            **numbers,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 2),
            "threads": torch.get_num_threads(),
        }

    def step(
        self, batch: IDBatch, generator: torch.Generator, active: bool, step: int, regularisers: list[Regulariser]
    ) -> Losses:
        """One update, the stage's `step`-th; sums over the batch.

        Args:
            active: whether outliers are made.
            regularisers: those that act.
        """
        n = len(batch.labels)
        if self.stage.views > 1:
            times = self.stage.views
            rows = None if batch.rows is None else batch.rows.repeat(times)
            batch = IDBatch(batch.images.repeat(times, 1, 1, 1), batch.labels.repeat(times), rows)
        seen, outliers = self._draw(batch, generator, active)
        mixed = self._mixed(seen.images, generator)
        if mixed is not None:
            seen = seen._replace(images=mixed.images, rows=None)
        further = [r.further(seen, generator) for r in regularisers]
        inliers, outside, *own = self._outputs(seen, outliers, further, generator)
        losses = self._head_losses(inliers, batch.labels, mixed)
        if self.synthesiser.space == "feature":  # of these features, after the head's own loss
            outliers, outside = self._draw_features(seen, inliers, outside, generator, active)
        head: Head | None = getattr(self.classifier, "head", None)
        images, ready = seen.images, outliers.ready
        shown = Batch(
            inliers, batch.labels, outside, outliers.labels, head, images, generator, rows=batch.rows, ready=ready
        )
        batches = [_with_further(shown, *pair) for pair in zip(further, own, strict=True)]
        losses |= _outlier_losses(batches, outliers.ready, regularisers)
        loss = self._update(losses, step, regularisers)
        logged = dict(losses) if ready is None else {**losses, READY: ready}
        if active:
            logged |= self.synthesiser.learn(batch, self.module, generator)
        correct = _correct(inliers.logits.argmax(-1), batch.labels, mixed) / self.stage.views
        return {"loss": loss.detach() * n, "accuracy": correct, **{k: v.detach() * n for k, v in logged.items()}}

    def _draw(self, batch: IDBatch, generator: torch.Generator, active: bool) -> tuple[IDBatch, Outliers]:
        """The batch as the network sees it, and image outliers made of it (K = 0 where there are none)."""
        seen = IDBatch(self._augmented(batch.images, generator), batch.labels, batch.rows)
        outliers = _none(seen)
        if active and self.synthesiser.space == "image":
            outliers = self.synthesiser.sample(seen, generator)
        if self.stage.inliers is None and not self.stage.match_inliers:
            return seen, outliers
        shown = batch  # treated first and then augmented, as outliers are
        if self.stage.inliers is not None:
            shown = self.stage.inliers.shown(shown, generator)
        if self.stage.match_inliers:
            shown = match_half(shown, self.stage.match_inliers, generator)
        return IDBatch(self._augmented(shown.images, generator), shown.labels, shown.rows), outliers

    def _outputs(
        self, batch: IDBatch, outliers: Outliers, further: list[IDBatch | None], generator: torch.Generator
    ) -> list[Outputs]:
        """The outputs of the batch, of its image outliers, and of each regulariser's own images.

        All go through the network in one pass: separate ones would give batch-norm several distributions.
        """
        own = [batch.images[:0] if images is None else images.images for images in further]
        if self.frozen is not None:
            inliers, outside = self.frozen.outputs(batch, outliers, self.synthesiser)
            return [inliers, outside, *(self.forward.outputs(images) if len(images) else outside for images in own)]
        made = self._augmented_outliers(outliers, generator) if len(outliers.data) else outliers.data
        parts = [batch.images, made, *own]
        shown = [part for part in parts if len(part)]
        outputs = self.forward.outputs(torch.cat(shown) if len(shown) > 1 else batch.images)
        return _split(outputs, [len(part) for part in parts])

    def _draw_features(
        self, batch: IDBatch, inliers: Outputs, none: Outputs, generator: torch.Generator, active: bool
    ) -> tuple[Outliers, Outputs]:
        """Outliers in feature space, and their outputs; `none` where they are not made yet."""
        self.synthesiser.observe(inliers.features.detach(), batch.labels)
        if not active:
            return _none(batch), none
        outliers = self.synthesiser.sample(batch, generator)
        return outliers, self.forward.feature_outputs(outliers.data)

    def _head_losses(self, inliers: Outputs, labels: Tensor, mixed: Mixed | None) -> Losses:
        """The head's own, which never sees an outlier; of mixed labels the mean by their weights."""
        if self.stage.trains == "nothing" or not self.stage.head_loss:
            return {}
        head = self.forward.head
        own = dict(head.loss(inliers.features, inliers.logits, labels))
        if mixed is None:
            return own
        others = head.loss(inliers.features, inliers.logits, labels[mixed.partner])
        return {name: mixed.weight * term + (1 - mixed.weight) * others[name] for name, term in own.items()}

    def _update(self, losses: Losses, step: int, regularisers: list[Regulariser]) -> Tensor:
        """A step of all optimizers on the sum of the losses, which it returns."""
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        for optimizer in _own(self.regularisers):
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters_of([self.optimizer, *_own(self.regularisers)]))
        if self.stage.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), self.stage.clip)
        self.optimizer.step()
        for optimizer in _own(regularisers):
            optimizer.step()
        if self.averaged:
            self.averaged.update(self.classifier, step)
        return loss

    @property
    def _judged(self) -> nn.Module:
        """The network whose accuracy chooses the epoch: the averaged one where weights are averaged."""
        return self.averaged.shadow if self.averaged else self.classifier

    def set_modes(self) -> None:
        """Train mode for what learns, eval mode for the rest."""
        self.classifier.train(self.stage.trains == "classifier" and not self.stage.freeze_norm)
        if self.stage.trains == "head":
            self.forward.head.train()

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images if self.augment is None else self.augment(images, generator)

    def _mixed(self, images: Tensor, generator: torch.Generator) -> Mixed | None:
        """Augmented images mixed with each other, where the last step of ``augment=`` does that."""
        mixing = None if self.augment is None else self.augment.mixing
        return None if mixing is None else mixing.mixed(images, generator)

    def _augmented_outliers(self, outliers: Outliers, generator: torch.Generator) -> Tensor:
        """Outlier images as in-distribution ones; they are mixed too, unless some are in-distribution after all."""
        if not self.synthesiser.augmented:
            return outliers.data
        images = self._augmented(outliers.data, generator)
        mixed = self._mixed(images, generator) if outliers.labels is None else None
        images = images if mixed is None else mixed.images
        if outliers.as_is is None:
            return images
        return torch.where(outliers.as_is[:, None, None, None], outliers.data, images)

    def _set_lr(self, progress: float) -> None:
        set_lr(self.optimizer, self.stage.lr, progress, self.stage.warmup)

    def finish(self) -> None:
        """End of the stage: the weights of the best epoch, or the averaged ones, become the classifier's."""
        if self.best:
            self.classifier.load_state_dict(self.best.network.state_dict())
        elif self.averaged:
            self.classifier.load_state_dict(self.averaged.shadow.state_dict())


def _context(
    feed: Feed, module: GuardModule, config: TrainConfig, device: torch.device, pictures: Tensor | None
) -> AugmentContext:
    p = feed.data.preprocess
    mean = tuple(255 * m for m in module.normalisation.mean)
    return AugmentContext(p.height, p.width, p.channels, mean, config.seed, device, pictures)


def _correct(said: Tensor, labels: Tensor, mixed: Mixed | None) -> Tensor:
    """How many labels are right, those of mixed images by their weights."""
    own = (said == labels).sum()
    return own if mixed is None else mixed.weight * own + (1 - mixed.weight) * (said == labels[mixed.partner]).sum()


def _none(batch: IDBatch) -> Outliers:
    return Outliers(batch.images[:0], "none")


def _with_further(batch: Batch, further: IDBatch | None, outputs: Outputs) -> Batch:
    return batch if further is None else replace(batch, further=outputs, further_labels=further.labels)


def _outlier_losses(batches: list[Batch], ready: Tensor | None, regularisers: list[Regulariser]) -> Losses:
    """The regularisers' terms, each of the batch as it sees it; nothing counts where the outliers are not ready."""
    losses: Losses = {}
    for batch, regulariser in zip(batches, regularisers, strict=True):
        terms = regulariser.loss(batch)
        losses |= terms if ready is None else {name: value * ready for name, value in terms.items()}
    return losses


def _own(regularisers: list[Regulariser]) -> list[torch.optim.Optimizer]:
    return [optimizer for regulariser in regularisers for optimizer in regulariser.optimizers().values()]


def _split(outputs: Outputs, counts: list[int]) -> list[Outputs]:
    """Outputs of so many images each, one after the other."""
    maps: Sequence[Tensor | None] = [None] * len(counts)
    if outputs.feature_map is not None:
        maps = outputs.feature_map.split(counts)
    parts = zip(outputs.features.split(counts), outputs.logits.split(counts), maps, strict=True)
    return [Outputs(*part) for part in parts]
