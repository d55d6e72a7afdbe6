"""A trained network -> rows: every score fitted on the same features, and measured on the same images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from guard.calibration.conformal import calibrate
from guard.data import ImageData
from guard.data.held_out import Draw, one_of_each, shared_with_score
from guard.data.loading import first_or_drawn
from guard.detector import Guard
from guard.graph.module import GuardModule
from guard.graph.outputs import Outputs
from guard.heads import LastLayer
from guard.scores import Score, create_score

from ..cache.keyed import digest, images_identity
from ..features.extract import fit_score
from ..methods.base import Method
from ..runs.fit import carried_over
from ..runs.resolve import asked_method
from . import counterparts, training
from .asked import AskedScore, created
from .cost import BATCH, SMALL_PIXELS, SMALLEST_BATCH, Cost, costs
from .outputs import detection_numbers, images_of, outputs_of, scores_of
from .plan import Plan, Run
from .results import Row, write_scores
from .sets import TEST

FROM_FEATURES = {"logits", "features", "weights", "extra class", "mirror image"}


@dataclass(frozen=True)
class Parts:
    """The images of a run: what scores are fitted to, the calibration split and its halves, what is measured."""

    fitting: ImageData
    settling: ImageData  # empty where so few are left that no threshold could be set
    kept: ImageData
    calibration: ImageData
    test: ImageData


def settings(plan: Plan, run: Run, score: AskedScore) -> str:
    """Hex digits of all that decides a row, but the OOD sets."""
    a = plan.asked
    test = a.max_images if plan.sets.test is None else plan.sets.identity(TEST)
    told = {"run": plan.identity(run), "score": [score.name, dict(score.options)], "test": test, "alpha": a.alpha}
    shifted = {name: digest(images_identity(images)) for name, images in plan.sets.shifted.items()}
    return digest(told | ({"compare": a.compare} if a.compare else {}) | ({"shifted": shifted} if shifted else {}))


def key(plan: Plan, run: Run, score: AskedScore) -> Row:
    """The beginning of a row: what it is of, and its settings."""
    return {
        "backbone": run.backbone,
        "method": run.name,
        "head": run.trained_head,
        "seed": run.seed,
        "score": score.label,
        "settings": settings(plan, run, score),
        **({"left_out": ", ".join(run.left_out)} if run.left_out else {}),
    }


def parts_of(plan: Plan, g: Guard) -> Parts:
    """As `guard.train` divided the images, and `train.runs.assemble.settled` the calibration split."""
    source = plan.sets.source
    draw = Draw.of_guard(g.manifest, source)
    assert draw is not None  # it was trained on them
    rows = draw.rows(source)
    calibration = one_of_each(source.subset(rows["calibration"]))
    given, kept = shared_with_score(len(calibration), plan.asked.alpha)
    test = plan.sets.test
    if test is None:
        test = source.subset(rows["test"])
        test = test.subset(first_or_drawn(len(test), plan.asked.max_images, 0))
    settling = calibration.subset(given)
    return Parts(source.subset(rows["train"]), settling, calibration.subset(kept), calibration, test)


class Network:
    """A trained classifier with what it shows of each set of images, taken once when it is first asked for."""

    def __init__(self, plan: Plan, run: Run, g: Guard) -> None:
        self.plan, self.guard = plan, g
        g.module.classifier.to(memory_format=torch.channels_last)  # as in training: twice as fast for large images
        self.request = plan.request(run)
        self.method: Method = asked_method(self.request)
        self.parts = parts_of(plan, g)
        self.learned = copy.deepcopy(g.module.score).cpu()
        self._outputs: dict[tuple[int, bool], Outputs] = {}

    def outputs(self, images: ImageData, mirrored: bool) -> Outputs:
        """Features and logits, on the CPU; `mirrored` as of a score with ``mirror=True``."""
        key = (id(images), mirrored)
        if key not in self._outputs:
            module = self.module(create_score("energy", mirror=mirrored))
            self._outputs[key] = outputs_of(module, images_of(images), maps=False)
        return self._outputs[key]

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(np.asarray(self.parts.fitting.labels))

    @property
    def last(self) -> LastLayer | None:
        """The classifier's last layer, on the CPU."""
        layer = self.guard.module.classifier.last_layer()
        if layer is None:
            return None
        reject = None if layer.reject is None else (layer.reject[0].cpu(), layer.reject[1].cpu())
        bias = None if layer.bias is None else layer.bias.cpu()
        return LastLayer(layer.weight.cpu(), bias, layer.scale, reject)

    def module(self, score: Score) -> GuardModule:
        """The classifier with this score, on the classifier's device."""
        own = self.guard.module
        device = own.scale.device
        return GuardModule(own.classifier, copy.deepcopy(score), own.normalisation).to(device).eval()

    def fitted(self, asked: AskedScore) -> Scorer:
        """A score as `guard.fit` would have it on this network."""
        fresh = created(asked, self.method)
        score = carried_over(fresh, self.learned)
        through = not set(score.needs) <= FROM_FEATURES or score.uses_map
        return Scorer(self, score, through, fit=not fresh.trained_by or len(score.parts()) > 1)


class Scorer:
    """A score of a network, fitted: images -> ood_score (N,). The threshold is set on the images that are left.

    Args:
        through: it reads more than features and logits, so that every image goes through the network again.
        fit: it is not what the training learned.
    """

    def __init__(self, network: Network, score: Score, through: bool, *, fit: bool) -> None:
        self.network, self.score, self.through = network, score, through
        parts = network.parts
        self.calibration = parts.calibration
        if through:
            self.module = network.module(score)
            if fit:
                fit_score(self.module, parts.fitting)
            self.score = self.module.score
        elif fit:
            taken = self.outputs(parts.fitting)
            score.fit(taken.features, taken.logits, network.labels, network.last)
        if score.takes_held_out and len(parts.settling):
            self._settle(parts.settling)
            self.calibration = parts.kept
        if not through:
            self.module = network.module(self.score)

    def _settle(self, images: ImageData) -> None:
        if not self.through:
            taken = self.outputs(images)
            self.score.settle(taken.features, taken.logits)
            return
        taken = outputs_of(self.module, images_of(images), maps=self.score.uses_map)
        device = self.module.scale.device
        seen = None if taken.feature_map is None else taken.feature_map.to(device)
        self.score.settle(taken.features.to(device), taken.logits.to(device), seen)

    def of(self, images: ImageData) -> np.ndarray:
        """ood_score (N,)."""
        if not self.through:
            return scores_of(self.score, self.outputs(images))
        device = self.module.scale.device
        threshold = torch.zeros((), device=device)
        found = []
        for batch in images_of(images):
            with torch.no_grad():
                x = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
                found.append(self.module(x, threshold)[2].float().cpu().numpy())
        return np.concatenate(found)

    def outputs(self, images: ImageData) -> Outputs:
        """What the network shows to a score that looks at images as this one does."""
        return self.network.outputs(images, self.score.mirrored)

    def accuracy(self, images: ImageData) -> float:
        """The share of labelled images that are named right."""
        return float((self.outputs(images).logits.argmax(-1).numpy() == images.labels).mean())

    def threshold(self, alpha: float) -> float:
        """That flags `alpha` of in-distribution images."""
        return calibrate(self.of(self.calibration), alpha=alpha).threshold


def measured(plan: Plan, run: Run, missing: Mapping[str, Iterable[str]]) -> list[Row]:
    """The rows of a trained run.

    Args:
        missing: the labels of the scores that are measured, each with the OOD sets.
    """
    g = training.trained(plan, run)
    network = Network(plan, run, g)
    wanted = [score for score in run.scores if score.label in missing]
    scorers = {score.label: network.fitted(score) for score in wanted}
    test = network.parts.test
    cost = costs({label: scorer.module for label, scorer in scorers.items()}, _batch(network))
    rows = []
    for score in wanted:
        scorer = scorers[score.label]
        row = key(plan, run, score)
        inside, threshold = scorer.of(test), scorer.threshold(plan.asked.alpha)
        outside = {name: scorer.of(plan.sets.ood[name]) for name in missing[score.label]}
        theirs = _theirs(plan, network, scorer, outside)
        shifted = {name: scorer.accuracy(images) for name, images in plan.sets.shifted.items()}
        row |= {
            "accuracy": scorer.accuracy(test),
            **({"accuracies": shifted} if shifted else {}),
            "false_alarm_rate": float((inside > threshold).mean()),
            "train_seconds": training.seconds(plan, run),
            **_cost(cost[score.label]),
            "ood": {
                name: {
                    "images": plan.sets.identity(name),
                    **detection_numbers(inside, scores),
                    "flagged": float((scores > threshold).mean()),
                    **theirs.get(name, {}),
                }
                for name, scores in outside.items()
            },
        }
        write_scores(plan.out, row, {"": inside, **outside})
        rows.append(row)
    return rows


def _cost(cost: Cost) -> dict[str, float]:
    named = asdict(cost)
    return {key if key.endswith("second") else f"speed_{key}": value for key, value in named.items()}


def _batch(network: Network) -> Tensor:
    """Images to time scores on: fewer of them where they are large, so that a call stays short."""
    test = network.parts.test
    pixels = test.preprocess.height * test.preprocess.width
    images = test.take(np.arange(min(max(SMALLEST_BATCH, BATCH * SMALL_PIXELS // pixels), BATCH, len(test))))
    return torch.from_numpy(np.ascontiguousarray(images)).to(network.guard.module.scale.device)


def _theirs(plan: Plan, network: Network, scorer: Scorer, outside: Iterable[str]) -> dict[str, dict[str, float]]:
    """The numbers of the other library's detector by OOD set; empty where it has no such score."""
    if plan.asked.compare is None or scorer.through:
        return {}
    taken = scorer.outputs(network.parts.fitting)
    other = counterparts.counterpart(scorer.score, taken, network.labels, network.last)
    if other is None:
        return {}
    inside = other(scorer.outputs(network.parts.test))
    found = {name: detection_numbers(inside, other(scorer.outputs(plan.sets.ood[name]))) for name in outside}
    return {name: {"theirs": numbers} for name, numbers in found.items()}  # type: ignore[dict-item]
