"""Quarter turns are numpy's, and one pass over all four shows what four passes show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guard.graph.module import GuardModule
from guard.graph.outputs import FeatureClassifier, Outputs
from guard.graph.turns import turned, with_turns
from guard.manifest import Normalisation
from guard.scores import create_score


class Pixels(FeatureClassifier):
    """Features that know every pixel; their sums as logits."""

    num_features = 5

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(channels * 36, 5)
        self.calls = 0

    def forward(self, x: Tensor) -> Outputs:
        self.calls += 1
        features = self.layer(x.flatten(1))
        return Outputs(features, features[:, :2], x)


def pictures(n: int, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, 6, 6, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_a_turn_is_numpys_on_height_and_width(k: int, channels: int) -> None:
    images = pictures(3, channels)
    expected = np.stack([np.rot90(image, k) for image in images.numpy()])
    np.testing.assert_array_equal(turned(images, k, (1, 2)), expected)
    np.testing.assert_array_equal(turned(images.permute(0, 3, 1, 2), k, (2, 3)).permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_one_pass_shows_the_upright_images_and_the_features_of_their_turns(n: int, channels: int) -> None:
    classifier, images = Pixels(channels), pictures(n, channels)
    x = images.permute(0, 3, 1, 2) / 255
    shown = with_turns(classifier, x)
    assert classifier.calls == 1
    upright = classifier(x)
    torch.testing.assert_close(shown.features, upright.features)
    torch.testing.assert_close(shown.logits, upright.logits)
    assert shown.feature_map is not None
    assert shown.feature_map.shape == (n, 15)
    for i in range(n):
        for k in (1, 2, 3):
            image = torch.from_numpy(np.rot90(images[i].numpy(), k).copy()).permute(2, 0, 1)[None] / 255
            torch.testing.assert_close(shown.feature_map[i, 5 * (k - 1) : 5 * k], classifier(image).features[0])


def test_a_module_shows_turns_to_a_score_that_needs_them_and_to_no_other() -> None:
    normalisation = Normalisation(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    images = pictures(2)
    shapes = {}
    for name, score in {
        "four": create_score("rotation"),
        "one": create_score("rotation", passes=1),
        "with another": create_score("energy+rotation"),
    }.items():
        module = GuardModule(Pixels(3), score, normalisation)
        feature_map = module.outputs(images).feature_map
        assert feature_map is not None
        shapes[name] = tuple(feature_map.shape)
    assert shapes == {"four": (2, 15), "one": (2, 3, 6, 6), "with another": (2, 15)}
