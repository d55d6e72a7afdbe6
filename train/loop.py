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
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from guard.heads import Head
from guard.module import Classifier, GuardModule, Taps

from .checkpoint import Progress as Position
from .checkpoint import load_checkpoint, read_progress, save_checkpoint
from .config import TrainConfig
from .data.augment import augment
from .feed import Feed
from .method import Batch, IDBatch, Outliers, Regulariser, Stage, Synthesiser

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

    With `ema` the averaged weights are in `module` at the end of each stage.
    """
    start = (read_progress(out, config) if out is not None and resume else None) or Position()
    journal = Journal(out, start if resume else None)
    numbers: dict[str, float] = {}
    for index, stage in enumerate(stages):
        if index < start.stage:
            continue
        resumed = out if index == start.stage and (start.stage or start.epoch) else None
        earlier = learned(stages[:index])
        if resumed is not None:  # before the stage is set up: an average starts from these weights
            load_checkpoint(resumed, {"classifier": module.classifier, **earlier}, None)
        run = StageRun(module, stage, index, feed, config, device)
        if resumed is not None and start.epoch:
            load_checkpoint(resumed, run.modules(), run.optimizer)
        first = start.epoch if index == start.stage else 0
        for epoch in range(first, stage.epochs):
            numbers = run.epoch(epoch)
            journal.write({"stage": stage.name, "stage_index": index, "epoch": epoch + 1, **numbers}, stage.epochs)
            if epoch + 1 == stage.epochs:
                run.finish()
            if out is not None:
                ended = epoch + 1 == stage.epochs and index + 1 < len(stages)
                position = Position(index + 1, 0) if ended else Position(index, epoch + 1)
                save_checkpoint(out, config, position, earlier | run.modules(), run.optimizer)
    for stage in stages:
        if stage.regulariser is not None:
            stage.regulariser.hand_over(module.score)
    return numbers


def learned(stages: list[Stage]) -> dict[str, nn.Module]:
    """What finished stages learned beside the classifier, under its checkpoint names: it is handed over at the end."""
    return {f"regulariser{i}": stage.regulariser for i, stage in enumerate(stages) if stage.regulariser is not None}


class StageRun:
    """One stage: its optimizer, schedule and step."""

    def __init__(
        self, module: GuardModule, stage: Stage, index: int, feed: Feed, config: TrainConfig, device: torch.device
    ) -> None:
        self.module, self.stage, self.index, self.config, self.device = module, stage, index, config, device
        self.feed = feed
        self.classifier = module.classifier
        self.synthesiser: Synthesiser | None = stage.synthesiser.to(device) if stage.synthesiser else None
        self.regulariser: Regulariser | None = stage.regulariser.to(device) if stage.regulariser else None
        self.averaged = Average(self.classifier, config.ema) if config.ema and stage.train_classifier else None
        parameters = list(self.classifier.parameters()) if stage.train_classifier else []
        parameters += list(self.regulariser.parameters()) if self.regulariser else []
        self.optimizer = torch.optim.SGD(
            [  # norms, biases, scales and links are not decayed
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": stage.weight_decay},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=stage.lr,
            momentum=stage.momentum,
            nesterov=stage.nesterov,
        )
        self.batch_size = min(config.batch_size, len(feed))
        self.steps = len(feed) // self.batch_size  # the rest, another one every epoch, is left out
        self.autocast = mixed_precision(device)

    def modules(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds; what belongs to this stage alone carries its number."""
        parts = {
            "classifier": self.classifier,
            f"synthesiser{self.index}": self.synthesiser,
            f"regulariser{self.index}": self.regulariser,
            f"average{self.index}": self.averaged.shadow if self.averaged else None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; mean loss terms, training accuracy, seconds."""
        began = time.perf_counter()
        seed = epoch_seed(self.config.seed, self.index, epoch)
        torch.manual_seed(seed)  # dropout
        order_generator = torch.Generator().manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        active = self.synthesiser is not None and epoch >= self.stage.start_epoch
        if self.synthesiser is not None and active:
            self.synthesiser.start_epoch(self.steps, generator)
        self.classifier.train(self.stage.train_classifier and not self.stage.freeze_norm)
        totals: dict[str, Tensor] = {}
        order = torch.randperm(len(self.feed), generator=order_generator)
        order = order[: self.steps * self.batch_size]
        batches = self.feed.batches(order, self.batch_size, self.device)
        with progress_bar(f"{self.stage.name} {epoch + 1}/{self.stage.epochs}", self.steps) as advance:
            for step, batch in enumerate(batches):
                self._set_lr((epoch * self.steps + step) / (self.stage.epochs * self.steps))
                for name, value in self.step(batch, generator, active, epoch * self.steps + step).items():
                    totals[name] = totals.get(name, torch.zeros((), device=self.device)) + value
                advance()
        numbers = {name: float(total) / len(order) for name, total in totals.items()}  # the epoch's only wait
        seconds = time.perf_counter() - began
        return {**numbers, "lr": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 2)}

    def step(self, batch: IDBatch, generator: torch.Generator, active: bool, step: int) -> dict[str, Tensor]:
        """One update, the stage's `step`-th; sums over the batch. Nothing here may wait for the device."""
        n = len(batch.labels)
        images = self._augment(batch.images, generator)
        sampled: Outliers | None = None
        if active and self.synthesiser is not None and self.synthesiser.space == "image":
            # one batch with the outliers: separate passes would give batch-norm two distributions
            sampled = self.synthesiser.sample(IDBatch(images, batch.labels), generator)
            images = torch.cat([images, self._augment(sampled.data, generator)])
        with contextlib.nullcontext() if self.stage.train_classifier else torch.no_grad(), self.autocast():
            taps: Taps = self.classifier(self.module.normalise(images).contiguous(memory_format=torch.channels_last))
        inliers, outside = _split(taps, n)
        terms: dict[str, Tensor] = {}
        if self.stage.train_classifier:
            terms |= self._head().loss(inliers.features, inliers.logits, batch.labels)  # never sees an outlier
        if self.synthesiser is not None and self.synthesiser.space == "feature":
            self.synthesiser.observe(inliers.features.detach(), batch.labels)
            if active:
                sampled = self.synthesiser.sample(batch, generator)
                with self.autocast():
                    outside = Taps(sampled.data, self._head()(sampled.data), None)
        if active and self.regulariser is not None:
            losses = self.regulariser.loss(Batch(inliers, batch.labels, outside))
            ready = None if sampled is None else sampled.ready
            terms |= losses if ready is None else {name: value * ready for name, value in losses.items()}
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.averaged:
            self.averaged.update(self.classifier, step)
        correct = (inliers.logits.argmax(-1) == batch.labels).sum()
        return {"loss": loss.detach() * n, "accuracy": correct, **{k: v.detach() * n for k, v in terms.items()}}

    def _head(self) -> Head:
        classifier = self.classifier
        assert isinstance(classifier, Classifier)  # guard.train builds no other
        return classifier.head

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.augment == "none" or not self.stage.train_classifier:
            return images
        return augment(images, generator, pad=max(1, images.shape[1] // 8), flip=self.config.augment == "crop+flip")

    def _set_lr(self, progress: float) -> None:
        factor = schedule(progress, self.stage.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.lr * factor

    def finish(self) -> None:
        """End of the stage: the averaged weights become the classifier's."""
        if self.averaged:
            self.classifier.load_state_dict(self.averaged.shadow.state_dict())


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


def _split(taps: Taps, n: int) -> tuple[Taps, Taps]:
    feature_map = taps.feature_map
    inside, outside = (None, None) if feature_map is None else (feature_map[:n], feature_map[n:])
    return Taps(taps.features[:n], taps.logits[:n], inside), Taps(taps.features[n:], taps.logits[n:], outside)
