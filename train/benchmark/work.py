"""What a run trains, makes first and measures, counted: steps, images, calls, bytes. Nothing is trained or loaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch

from guard.data.held_out import Draw
from guard.requests import TrainRequest

from ..losses.distillation import DistillationLoss
from ..methods.base import Method, MethodContext, Stage
from ..outliers.base import Changed, OutlierMix, Synthesiser, list_synthesisers
from ..outliers.images.adversarial_noise import AdversarialNoise
from ..outliers.sources import weighted
from ..runs.fine_tuning import tuned_defaults
from ..runs.resolve import asked_backbone, asked_method, asked_score
from ..runs.train import WRITTEN_COPIES
from .asked import AskedScore
from .making import images_of, made_first
from .network_cost import NetworkCost, classifier_cost, teacher_cost
from .plan import Plan, Run
from .speeds import BACKWARD, NETWORKS
from .task import Task

FLOAT = 4  # bytes


@dataclass(frozen=True)
class RunWork:
    """A run and its tasks."""

    run: Run
    tasks: tuple[Task, ...]


class Reckoner:
    """Counts the work of the runs of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        p = plan.sets.source.preprocess
        self.size, self.channels = (p.height, p.width), p.channels

    def of(self, run: Run) -> RunWork:
        """The tasks of a run, those of runs that it starts from left out."""
        request = self.plan.request(run)
        method = asked_method(request)
        cost = self.cost(run)
        context = self._context(run, request, method, cost)
        stages = method.stages(context)
        images = images_of(self.plan.sets.source, self.trained)
        makes = made_first(method.options, stages, images, context.epochs)
        trains = [self._training(run, stage, context, method, cost) for stage in stages]
        size = WRITTEN_COPIES * FLOAT * float(cost.parameters)
        trains[0] = replace(trains[0], size=size)
        return RunWork(run, (*makes, *trains, self._measuring(run, cost)))

    def stages(self, run: Run) -> list[Stage]:
        """Of the run's training, with nothing behind them."""
        request = self.plan.request(run)
        method = asked_method(request)
        return method.stages(self._context(run, request, method, self.cost(run)))

    def cost(self, run: Run) -> NetworkCost:
        """Of the run's classifier."""
        request = self.plan.request(run)
        backbone, classes = asked_backbone(request, max(self.size)), len(self.plan.sets.source.class_names)
        return classifier_cost(backbone, run.trained_head, classes, self.channels, self.size)

    @property
    def trained(self) -> int:
        """Images that are trained on."""
        return self._split[0]

    @functools.cached_property
    def _split(self) -> tuple[int, int]:
        """Images that are trained on, and that are held out."""
        training = self.plan.asked.training
        source = self.plan.sets.source
        rows = Draw(0, training.get("calibration"), training.get("test")).rows(source)
        return len(rows["train"]), len(rows["calibration"]) + len(rows["test"])

    def _context(self, run: Run, request: TrainRequest, method: Method, cost: NetworkCost) -> MethodContext:
        classes = len(self.plan.sets.source.class_names)
        each = self.trained // classes
        defaults = tuned_defaults(request, method, self.trained)
        return MethodContext(
            num_classes=classes,
            num_features=cost.features,
            map_shape=cost.map_shape,
            class_counts=(each,) * classes,
            epochs=defaults["epochs"],
            lr=defaults["lr"],
            batch_size=defaults["batch_size"],
            seed=run.seed,
            device=torch.device("cpu"),
            outliers=self._outliers(run),
            initialised=request.init is not None,
            pretrained=bool(request.pretrained),
            score=asked_score(request, method),
        )

    def _outliers(self, run: Run) -> OutlierMix | None:
        """What ``outliers:`` names, with other images in the place of those that need not be there."""
        given = {**self.plan.asked.training, **run.arguments}.get("outliers")
        if given is None:
            return None
        source, known = self.plan.sets.source, list_synthesisers()
        pairs = enumerate(weighted(given), start=1)
        return {w if w in known else source.subset(np.arange(i)): weight for i, (w, weight) in pairs}

    def _training(self, run: Run, stage: Stage, context: MethodContext, method: Method, cost: NetworkCost) -> Task:
        batch = min(context.batch_size, self.trained)
        steps = self.trained // batch
        with_outliers = max(0, stage.epochs - stage.start_epoch)
        frozen = stage.trains != "classifier"
        passes = 1 if frozen else BACKWARD
        per_image = cost.forward * passes
        inside = stage.epochs * steps * batch * stage.views
        outside = with_outliers * steps * outliers_per_step(stage.synthesiser)
        work = (inside + outside) * per_image
        work += outside * attack_passes(stage.synthesiser) * BACKWARD * cost.forward
        if any(isinstance(one, DistillationLoss) for one in stage.regularisers):
            work += inside * self.teacher_forward(method)
        amount = f"{stage.epochs} epochs, {stage.epochs * steps:,} steps of {batch} images"
        if outside:
            amount += f" and {outliers_per_step(stage.synthesiser)} outliers"
        return Task("train", stage.name, amount, work, NETWORKS)

    def teacher_forward(self, method: Method) -> float:
        """Multiply-adds of a teacher's answer."""
        teacher = method.options.teacher
        if teacher.is_guard:
            return 0.0
        return teacher_cost(teacher, len(self.plan.sets.source.class_names), self.channels, self.size).forward

    def _measuring(self, run: Run, cost: NetworkCost) -> Task:
        sets = self.plan.sets
        shown = [len(images) for images in (*sets.ood.values(), *sets.shifted.values())]
        test = len(sets.test) if sets.test is not None else self._split[1]
        images = sum(shown) + test + self.trained + self._split[1]
        work = images * cost.forward * (1 + sum(_passes(score) for score in run.scores))
        return Task("measure", run.name, f"{len(run.scores)} scores on {images:,} images", work, NETWORKS)


AGAIN = {"gram": 1.0, "multilayer_mahalanobis": 1.0, "odin": BACKWARD}  # passes of every image beside the features'


def _passes(score: AskedScore) -> float:
    return sum(AGAIN.get(part, 0.0) for part in {*score.name.split("+"), *score.options.get("parts", ())})


def outliers_per_step(synthesiser: Synthesiser | None) -> int:
    """Images that go through the network beside the in-distribution ones; features cost next to nothing."""
    while isinstance(synthesiser, Changed):
        synthesiser = synthesiser.wrapped
    if synthesiser is None or synthesiser.space != "image":
        return 0
    parts = list(getattr(synthesiser, "parts", ()))
    return sum(map(outliers_per_step, parts)) if parts else int(getattr(synthesiser, "count", 0))


def attack_passes(synthesiser: Synthesiser | None) -> int:
    """Further passes of each outlier, with gradients, while it is made."""
    return synthesiser.options.steps if isinstance(synthesiser, AdversarialNoise) else 0
