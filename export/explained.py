"""The graph with what an explanation reads, for files that are exported with exemplars.

    embedding   float32 (N, D)  features, or probabilities where the classifier shows none: to find similar images by
    surprises   float32 (J, N)  -log p of each part of a combined score

They are computed anyway on the way to the four answers, whose values stay what they were.
"""

from __future__ import annotations

from torch import Tensor, nn

from guard.calibration.decision_rule import flagged
from guard.explanation import EMBEDDING, SURPRISES
from guard.graph.module import GuardModule
from guard.graph.outputs import Outputs
from guard.scores import Score
from guard.scores.combined import Combined


class Explained(nn.Module):
    """A `GuardModule` with more outputs."""

    def __init__(self, module: GuardModule) -> None:
        super().__init__()
        self.module = module
        self.extra_outputs = extra_outputs(module.score)

    def forward(self, images: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        return _answers(self.module.score, *self.module.shown(images), threshold)


class ExplainedScore(nn.Module):
    """A `export.graft.ScorePart` with more outputs."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score
        self.extra_outputs = extra_outputs(score)

    def forward(self, features: Tensor, logits: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        outputs = Outputs(features, logits, None)
        return _answers(self.score, outputs, outputs, threshold)


def extra_outputs(score: Score) -> tuple[str, ...]:
    """Names of the outputs beside the four."""
    return (EMBEDDING, SURPRISES) if isinstance(score, Combined) else (EMBEDDING,)


def _answers(score: Score, outputs: Outputs, read: Outputs, threshold: Tensor) -> tuple[Tensor, ...]:
    probabilities = outputs.logits.softmax(-1)
    embedding = outputs.features * 1.0 if outputs.features.shape[1] else probabilities * 1.0  # an output of its own
    more: tuple[Tensor, ...] = (embedding,)
    if isinstance(score, Combined):
        surprises = score.surprises(*read)
        ood_score = score.joined(surprises)
        more = (embedding, surprises)
    else:
        ood_score = score(*read)
    return outputs.logits.argmax(-1), probabilities, ood_score, flagged(ood_score, threshold), *more
