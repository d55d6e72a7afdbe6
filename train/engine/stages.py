"""The training loop, readable in one sitting.

Every random number of an epoch comes from generators seeded with (seed, stage, epoch), so a checkpoint needs no
generator state and a resumed run ends where an uninterrupted one does. Inside a step nothing waits for the device.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier, Outputs
from guard.heads import Head

from ..losses.base import Batch, Regulariser
from ..methods.base import Stage
from ..outliers.base import IDBatch, Outliers, PrepareContext, Synthesiser
from ..outliers.matching import match_half
from ..runs.request import TrainConfig
from .augment import augment
from .checkpoint import Progress as Position
from .checkpoint import load_checkpoint, read_progress, save_checkpoint
from .loader import Feed

log = logging.getLogger("ood_guard")


def train_stages(
    module: GuardModule,
    feed: Feed,
    stages: list[Stage],
    config: TrainConfig,
    *,
    device: torch.device,
    out: Path | None,
    resume: bool,
) -> dict[str, float]:
    """Run all stages on `module` in place; returns the last epoch's numbers.

    With `ema` the averaged weights are in `module` at the end of each stage. What synthesisers prepare is kept in
    ``out/outliers``, or in a temporary folder where there is no `out`.
    """
    start = (read_progress(out, config) if out is not None and resume else None) or Position()
    journal = Journal(out, start if resume else None)
    numbers: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        kept = out / "outliers" if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for index, stage in enumerate(stages):
            if index < start.stage:
                continue
            resumed = out if index == start.stage and (start.stage or start.epoch) else None
            earlier = learned(stages[:index])
            if resumed is not None:  # before the stage is set up: an average starts from these weights
                load_checkpoint(resumed, {"classifier": module.classifier, **earlier}, {})
            run = StageRun(module, stage, index, feed, config, device)
            run.prepare(PrepareContext(module, feed.data, kept, config.seed, device))
            if resumed is not None and start.epoch:  # after `prepare`, which may build what has a state here
                load_checkpoint(resumed, run.modules(), run.optimizers())
            first = start.epoch if index == start.stage else 0
            for epoch in range(first, stage.epochs):
                numbers = run.epoch(epoch)
                journal.write({"stage": stage.name, "stage_index": index, "epoch": epoch + 1, **numbers}, stage.epochs)
                if epoch + 1 == stage.epochs:
                    run.finish()
                if out is not None:
                    ended = epoch + 1 == stage.epochs and index + 1 < len(stages)
                    position = Position(index + 1, 0) if ended else Position(index, epoch + 1)
                    save_checkpoint(out, config, position, earlier | run.modules(), run.optimizers())
    for stage in stages:
        for regulariser in stage.regularisers:
            for score in module.score.parts():
                regulariser.hand_over(score)
    return numbers


def learned(stages: list[Stage]) -> dict[str, nn.Module]:
    """What finished stages learned beside the classifier, under its checkpoint names: it is handed over at the end."""
    return {
        f"regulariser{i}.{j}": regulariser
        for i, stage in enumerate(stages)
        for j, regulariser in enumerate(stage.regularisers)
    }


class StageRun:
    """One stage: its optimizers, schedule and step."""

    def __init__(
        self, module: GuardModule, stage: Stage, index: int, feed: Feed, config: TrainConfig, device: torch.device
    ) -> None:
        self.module, self.stage, self.index, self.config, self.device = module, stage, index, config, device
        self.feed = feed
        self.classifier = module.classifier
        self.synthesiser: Synthesiser | None = stage.synthesiser.to(device) if stage.synthesiser else None
        self.regularisers: list[Regulariser] = [regulariser.to(device) for regulariser in stage.regularisers]
        self.training = stage.trains == "classifier"
        self.averaged = Average(self.classifier, config.ema) if config.ema and stage.trains != "nothing" else None
        self.batch_size = min(config.batch_size, len(feed))
        self.steps = len(feed) // self.batch_size  # the rest, another one every epoch, is left out
        self.autocast = mixed_precision(device)
        self.frozen = FrozenFeatures(self) if self._can_freeze() else None

    def _classifier_optimizer(self) -> torch.optim.Optimizer:
        stage = self.stage
        trained: nn.Module | None = self.classifier if self.training else None
        if stage.trains == "head":
            trained = self._head()
        parts: list[tuple[nn.Module, float]] = [(trained, 1.0)] if trained is not None else []
        parts += [(regulariser, regulariser.lr_factor) for regulariser in self.regularisers]
        others = [group for r in self.regularisers for o in r.optimizers().values() for group in o.param_groups]
        own = {id(p) for group in others for p in group["params"]}
        groups: list[dict[str, Any]] = []
        for factor in dict.fromkeys(factor for _, factor in parts):
            free = [p for part, f in parts if f == factor for p in part.parameters() if id(p) not in own]
            decayed, rest = [p for p in free if p.ndim >= 2], [p for p in free if p.ndim < 2]
            groups.append({"params": decayed, "weight_decay": stage.weight_decay, "factor": factor})
            groups.append({"params": rest, "weight_decay": 0.0, "factor": factor})  # norms, biases, scales, links
        if stage.optimizer == "adam":
            return torch.optim.Adam(groups, lr=stage.lr, betas=(stage.momentum, 0.999))
        return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum, nesterov=stage.nesterov)

    def _can_freeze(self) -> bool:
        unchanged = self.stage.trains == "nothing" or (self.stage.trains == "head" and self.config.augment == "none")
        return unchanged and not any(r.reads_map for r in self.regularisers)

    def modules(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds; what belongs to this stage alone carries its number."""
        parts = {
            "classifier": self.classifier,
            f"synthesiser{self.index}": self.synthesiser,
            **{f"regulariser{self.index}.{j}": part for j, part in enumerate(self.regularisers)},
            f"average{self.index}": self.averaged.shadow if self.averaged else None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """All of the stage's, by their checkpoint names."""
        found = {"classifier": self.optimizer}
        learners = [("synthesiser", self.synthesiser)] if self.synthesiser else []
        for name, learner in [*learners, *((f"regulariser.{j}", r) for j, r in enumerate(self.regularisers))]:
            found |= {f"{name}.{key}": optimizer for key, optimizer in learner.optimizers().items()}
        return found

    def prepare(self, context: PrepareContext) -> None:
        """What takes long and comes before the first epoch; the optimizer knows what regularisers make in it."""
        if self.synthesiser is not None:
            self.synthesiser.prepare(context)
        for regulariser in self.regularisers:
            regulariser.prepare(context)
        self.optimizer = self._classifier_optimizer()

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; mean loss terms, training accuracy, seconds."""
        began = time.perf_counter()
        seed = epoch_seed(self.config.seed, self.index, epoch)
        torch.manual_seed(seed)  # dropout
        order_generator = torch.Generator().manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        active = epoch >= self.stage.start_epoch
        if self.synthesiser is not None and active:
            self.synthesiser.start_epoch(self.steps, generator)
        self.set_modes()
        totals: dict[str, Tensor] = {}
        order = torch.randperm(len(self.feed), generator=order_generator)
        order = order[: self.steps * self.batch_size]
        batches = self.feed.batches(order, self.batch_size, self.device)
        regularisers = [r for r in self.regularisers if active and epoch >= r.start_epoch]
        with progress_bar(f"{self.stage.name} {epoch + 1}/{self.stage.epochs}", self.steps) as advance:
            for step, batch in enumerate(batches):
                self._set_lr((epoch * self.steps + step) / (self.stage.epochs * self.steps))
                sums = self.step(batch, generator, active, epoch * self.steps + step, regularisers)
                for name, value in sums.items():
                    totals[name] = totals.get(name, torch.zeros((), device=self.device)) + value
                advance()
        numbers = {name: float(total) / len(order) for name, total in totals.items()}  # the epoch's only wait
        seconds = time.perf_counter() - began
        return {**numbers, "lr": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 2)}

    def step(
        self, batch: IDBatch, generator: torch.Generator, active: bool, step: int, regularisers: list[Regulariser]
    ) -> dict[str, Tensor]:
        """One update, the stage's `step`-th; sums over the batch. Nothing here may wait for the device."""
        n = len(batch.labels)
        images = self._augment(batch.images, generator)
        augmented = IDBatch(images, batch.labels, batch.rows)
        sampled: Outliers | None = None
        if active and self.synthesiser is not None and self.synthesiser.space == "image":
            sampled = self.synthesiser.sample(augmented, generator)
        if self.stage.match_inliers:
            augmented = match_half(augmented, self.stage.match_inliers, generator)
        inliers, outside = self._outputs(augmented, sampled, generator)
        terms: dict[str, Tensor] = {}
        if self.stage.trains != "nothing" and self.stage.head_loss:
            terms |= self._head().loss(inliers.features, inliers.logits, batch.labels)  # never sees an outlier
        if self.synthesiser is not None and self.synthesiser.space == "feature":
            self.synthesiser.observe(inliers.features.detach(), batch.labels)
            if active:
                sampled = self.synthesiser.sample(augmented, generator)
                with self.autocast():
                    outside = Outputs(sampled.data, self._head()(sampled.data), None)
        labels = None if sampled is None else sampled.labels
        head: Head | None = getattr(self.classifier, "head", None)
        seen = Batch(inliers, batch.labels, outside, labels, head, augmented.images, generator)
        for regulariser in regularisers:
            losses = regulariser.loss(seen)
            ready = None if sampled is None else sampled.ready
            terms |= losses if ready is None else {name: value * ready for name, value in losses.items()}
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        for regulariser in self.regularisers:
            for optimizer in regulariser.optimizers().values():
                optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.stage.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), self.stage.clip)
        self.optimizer.step()
        for regulariser in regularisers:
            for optimizer in regulariser.optimizers().values():
                optimizer.step()
        if self.averaged:
            self.averaged.update(self.classifier, step)
        logged = {k: v.detach() * n for k, v in terms.items()}
        if active and self.synthesiser is not None:
            logged |= {k: v.detach() * n for k, v in self.synthesiser.learn(batch, self.module, generator).items()}
        correct = (inliers.logits.argmax(-1) == batch.labels).sum()
        return {"loss": loss.detach() * n, "accuracy": correct, **logged}

    def _outputs(self, batch: IDBatch, sampled: Outliers | None, generator: torch.Generator) -> tuple[Outputs, Outputs]:
        """What the network shows of the batch and of its image outliers (K = 0 where there are none).

        Both go through in one pass: separate ones would give batch-norm two distributions.
        """
        if self.frozen is not None:
            return self.frozen.outputs(batch, sampled)
        images, n = batch.images, len(batch.labels)
        if sampled is not None and self.synthesiser is not None:
            moved = self._augment(sampled.data, generator) if self.synthesiser.augmented else sampled.data
            images = torch.cat([images, moved])
        return _split(self.look(images), n)

    def look(self, images: Tensor) -> Outputs:
        """The outputs of uint8 images in the stage's precision, with gradients where the stage trains their maker."""
        if self.stage.trains == "head":
            return self.answer(*self.pooled(images))
        with self.autocast(), torch.set_grad_enabled(self.training):
            outputs: Outputs = self.classifier(self._normalised(images))
            return outputs

    @torch.no_grad()
    def pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the frozen backbone gives the head: pooled features (N, P), and the map they come from."""
        backbone = self._parts().backbone
        with self.autocast():
            feature_map = backbone.forward_map(self._normalised(images))
            return backbone.pool(feature_map), feature_map

    def answer(self, pooled: Tensor, feature_map: Tensor | None = None) -> Outputs:
        """What the head makes of pooled features, with its gradients.

        An autocast of its own: one that `pooled` shared would reuse weights that were cast without gradients.
        """
        head = self._head()
        with self.autocast():
            features = head.embed(pooled)
            return Outputs(features, head(features), feature_map)

    def _normalised(self, images: Tensor) -> Tensor:
        return self.module.normalise(images).contiguous(memory_format=torch.channels_last)

    def _parts(self) -> Classifier:
        classifier = self.classifier
        assert isinstance(classifier, Classifier)  # guard.train builds no other
        return classifier

    def _head(self) -> Head:
        return self._parts().head

    def set_modes(self) -> None:
        self.classifier.train(self.training and not self.stage.freeze_norm)
        if self.stage.trains == "head":
            self._head().train()

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.augment == "none" or self.stage.trains == "nothing":
            return images
        return augment(images, generator, pad=max(1, images.shape[1] // 8), flip=self.config.augment == "crop+flip")

    def _set_lr(self, progress: float) -> None:
        factor = schedule(progress, self.stage.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.lr * factor * group["factor"]

    def finish(self) -> None:
        """End of the stage: the averaged weights become the classifier's."""
        if self.averaged:
            self.classifier.load_state_dict(self.averaged.shadow.state_dict())


class FrozenFeatures:
    """What a frozen network makes of images that go through it unchanged in every epoch: computed once.

    Kept are features and logits where all of it is frozen, pooled features where its head learns. In-distribution
    images always, outliers where they come from a fixed pool; what is new every step goes through the network.
    float32, one row per image, in the precision of the stage's other passes.
    """

    def __init__(self, run: StageRun) -> None:
        self.run = run
        self._inliers: tuple[Tensor, ...] | None = None
        self._pool: tuple[Tensor, ...] | None = None

    def outputs(self, batch: IDBatch, sampled: Outliers | None) -> tuple[Outputs, Outputs]:
        """As `StageRun._outputs`."""
        if batch.rows is None:  # changed in this step
            inliers = self.run.look(batch.images)
        else:
            if self._inliers is None:
                self._inliers = self._all(self.run.feed, "features")
            inliers = self._of(self._inliers, batch.rows)
        if sampled is None:
            return inliers, Outputs(inliers.features[:0], inliers.logits[:0], None)
        synthesiser = self.run.synthesiser
        pool = synthesiser.pool() if synthesiser is not None else None
        if sampled.rows is None or pool is None:
            return inliers, self.run.look(sampled.data)
        if self._pool is None:
            self._pool = self._all(Feed(pool), "features of outliers")
        return inliers, self._of(self._pool, sampled.rows)

    def _of(self, kept: tuple[Tensor, ...], rows: Tensor) -> Outputs:
        if self.run.stage.trains == "head":
            return self.run.answer(kept[0][rows])
        features, logits = kept
        return Outputs(features[rows], logits[rows], None)

    def _see(self, images: Tensor) -> tuple[Tensor, ...]:
        shown = self.run.pooled(images)[:1] if self.run.stage.trains == "head" else self.run.look(images)[:2]
        return tuple(part.float() for part in shown)

    def _all(self, feed: Feed, title: str) -> tuple[Tensor, ...]:
        size = self.run.batch_size
        parts: list[tuple[Tensor, ...]] = []
        with progress_bar(title, -(-len(feed) // size)) as advance:
            for batch in feed.batches(torch.arange(len(feed)), size, self.run.device):
                parts.append(self._see(batch.images))
                advance()
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))


class Average:
    """Exponential moving average of weights and batch-norm statistics.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's: without it a short run would end near its
    random initialisation (0.999^300 = 0.74 of it after 300 steps).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """shadow <- decay shadow + (1 - decay) module after step t = 0, 1, ...; counters are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.shadow.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


class Journal:
    """One log line per epoch, and metrics.jsonl; on resume the lines after the checkpoint are dropped."""

    def __init__(self, out: Path | None, start: Position | None) -> None:
        self.path = out / "metrics.jsonl" if out is not None else None
        if self.path is None or not self.path.exists():
            return
        done = (start.stage, start.epoch) if start else (0, 0)
        lines = [line for line in self.path.read_text().splitlines() if _is_before(line, done)]
        self.path.write_text("".join(f"{line}\n" for line in lines))

    def write(self, record: dict[str, Any], epochs: int) -> None:
        """Append a record and log it."""
        numbers = " ".join(f"{k} {v:.4g}" for k, v in record.items() if isinstance(v, float))
        log.info("%s %d/%d  %s", record["stage"], record["epoch"], epochs, numbers)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def _is_before(line: str, done: tuple[int, int]) -> bool:
    try:
        record = json.loads(line)
        return (record["stage_index"], record["epoch"]) <= done
    except (ValueError, KeyError):  # a line that a kill cut short
        return False


def schedule(progress: float, warmup: float) -> float:
    """Learning-rate factor at `progress` in [0, 1): linear up to `warmup`, then half a cosine down to 0."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def epoch_seed(seed: int, stage: int, epoch: int) -> int:
    """A seed of its own for each epoch of each stage."""
    return (seed * 1_000_003 + stage * 10_007 + epoch * 2 + 1) % 2**63


def mixed_precision(device: torch.device) -> Any:
    """A factory of autocast contexts: bf16 on CUDA, and on CPUs that compute in it; elsewhere float32."""
    if device.type == "cuda" or cpu_has_bf16():
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX: elsewhere bf16 is emulated and slower than float32."""
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(check() for check in checks if check is not None)


@contextlib.contextmanager
def progress_bar(title: str, steps: int) -> Any:
    """Yields advance(); draws on a terminal's stderr only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=steps)
        yield lambda: progress.advance(task)


def _split(outputs: Outputs, n: int) -> tuple[Outputs, Outputs]:
    feature_map = outputs.feature_map
    inside, outside = (None, None) if feature_map is None else (feature_map[:n], feature_map[n:])
    return Outputs(outputs.features[:n], outputs.logits[:n], inside), Outputs(
        outputs.features[n:], outputs.logits[n:], outside
    )
