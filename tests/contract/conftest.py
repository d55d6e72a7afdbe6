"""A toy classifier that every score can be fitted to, and outliers that no score may miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from guard.heads import LastLayer
from guard.scores import Score, create_score
from train.losses.base import Batch
from train.methods import get_method
from train.methods.base import MethodContext

CLASSES, FEATURES = 4, 12

OPTIONS: dict[str, dict[str, Any]] = {
    # an image of the toy has one active feature of 12: keep that one, and not three of noise with it
    "ash": {"percentile": 90},
}
"""What a score needs to suit the toy; every other one is made with its defaults."""


def toy_score(name: str) -> Score:
    """The score, not fitted yet."""
    return create_score(name, **OPTIONS.get(name, {}))


class Toy(NamedTuple):
    """Class c lies around 6 e_c; logits are 2 h_1..h_4. The outliers lie far along an axis the classifier ignores.

    The feature map is `turned_thrice` of the features, and stands in for the summary of a score that reads layers, too.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    feature_map: Tensor
    held_out: Outputs
    outliers: Outputs
    last_layer: LastLayer


def turned_thrice(features: Tensor) -> Tensor:
    """(N, 3 D): negative, with the first half of the coordinates in the place of the second, and both. A linear layer
    can tell them apart, as a network can tell turns of an image."""
    half = features.roll(FEATURES // 2, 1)
    return torch.cat([-features, half, -half], 1)


def _outputs(features: Tensor, last: LastLayer) -> Outputs:
    return Outputs(features, features @ last.weight.T + last.bias, turned_thrice(features))


@pytest.fixture(scope="session")
def toy() -> Toy:
    g = torch.Generator().manual_seed(0)
    reject = (torch.eye(FEATURES)[10], torch.tensor(-5.0))  # an extra class, for the scores that read one
    last = LastLayer(2 * torch.eye(CLASSES, FEATURES), torch.linspace(-0.1, 0.1, CLASSES), reject=reject)
    labels = torch.arange(800) % CLASSES
    rows = 6 * torch.eye(CLASSES, FEATURES)[labels] + 0.5 * torch.randn(800, FEATURES, generator=g)
    far = torch.zeros(60, FEATURES)
    far[:, 10] = 20
    far += 0.1 * torch.randn(60, FEATURES, generator=g)
    seen, held = rows[:600], rows[600:]
    outputs = _outputs(seen, last)
    feature_map = turned_thrice(seen)
    return Toy(seen, outputs.logits, labels[:600], feature_map, _outputs(held, last), _outputs(far, last), last)


def _train(score: Score, toy: Toy) -> None:
    """What the method that trains this score does, with a frozen classifier: 200 steps of its last regulariser."""
    method = get_method(score.trained_by)
    built = method(method.Options())
    context = MethodContext(
        num_classes=CLASSES,
        num_features=FEATURES,
        map_shape=(FEATURES,),
        class_counts=(150,) * CLASSES,
        epochs=1,
        lr=0.1,
        batch_size=32,
        seed=0,
        device=torch.device("cpu"),
        outliers=None,
        initialised=True,
        score=score,
    )
    torch.manual_seed(0)
    regulariser = built.stages(context)[-1].regularisers[-1]
    optimizer = torch.optim.SGD(regulariser.parameters(), lr=0.05, momentum=0.9)
    further = torch.cat(toy.feature_map.chunk(3, 1))
    batch = Batch(
        Outputs(toy.features, toy.logits, toy.features),
        toy.labels,
        toy.outliers,
        further=Outputs(further, further[:, :CLASSES], None),
        further_labels=torch.arange(1, 4).repeat_interleave(len(toy.features)),
    )
    for _ in range(200):
        optimizer.zero_grad()
        torch.stack(list(regulariser.loss(batch).values())).sum().backward()
        optimizer.step()
    regulariser.hand_over(score)


@pytest.fixture(scope="session")
def fitted(toy: Toy) -> Callable[[str], Score]:
    """fitted(name): the score of `toy_score`, fitted to (or trained on) the toy classifier; made once."""
    made: dict[str, Score] = {}

    def fit(name: str) -> Score:
        if name not in made:
            score = toy_score(name)
            if score.trained_by:
                _train(score, toy)
            else:
                score.fit(toy.features, toy.logits, toy.labels, toy.last_layer, toy.feature_map)
            made[name] = score.requires_grad_(False)
        return made[name]

    return fit
