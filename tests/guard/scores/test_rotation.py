"""The rotation score against its definition and the published one, with one pass and four, alone and combined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.errors import ConfigError
from guard.graph.outputs import Outputs
from guard.scores import Score, create_score
from guard.scores.rotation import Rotation, divergence_from_uniform
from tests.references import rotation as reference

WIDTH, CLASSES = 6, 5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learned(**options: int) -> Rotation:
    score = create_score("rotation", **options)
    assert isinstance(score, Rotation)
    score.set_layer(normal(4, WIDTH, seed=1), normal(4, seed=2))
    return score


@pytest.fixture
def outputs() -> Outputs:
    return Outputs(normal(20, WIDTH, seed=3), 3 * normal(20, CLASSES, seed=4), normal(20, 3 * WIDTH, seed=5))


def turn_logits(score: Rotation, outputs: Outputs) -> np.ndarray:
    """(N, 4, 4): g of each turn."""
    assert outputs.feature_map is not None
    every = np.concatenate([outputs.features.numpy(), outputs.feature_map.numpy()], 1).reshape(20, 4, WIDTH)
    return np.float64(every) @ np.float64(score.weight.numpy()).T + np.float64(score.bias.numpy())


def test_it_is_the_mean_cross_entropy_of_the_turns_less_the_divergence(outputs: Outputs) -> None:
    score = learned()
    expected = reference.rotation(outputs.logits.numpy(), turn_logits(score, outputs))
    np.testing.assert_allclose(score(*outputs), expected, rtol=1e-5, atol=1e-5)


def test_it_is_the_published_score_in_nats_and_turned_round(outputs: Outputs) -> None:
    score = learned()
    theirs = reference.published(outputs.logits.numpy(), turn_logits(score, outputs))
    np.testing.assert_allclose(score(*outputs), -math.log(2) * theirs, rtol=1e-5, atol=1e-5)


def test_one_pass_is_the_upright_image_alone(outputs: Outputs) -> None:
    score = learned(passes=1)
    assert score.needs == ("logits", "features")
    expected = reference.rotation(outputs.logits.numpy(), turn_logits(score, outputs)[:, :1])
    np.testing.assert_allclose(score(outputs.features, outputs.logits), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(score(*outputs), expected, rtol=1e-5, atol=1e-5)


def test_the_divergence_stays_exact_where_probabilities_round_to_nothing() -> None:
    f = torch.tensor([[0.0, 0.0, 0.0], [300.0, 0.0, 0.0]])
    np.testing.assert_allclose(divergence_from_uniform(f), [0, 200 - math.log(3)], rtol=1e-6, atol=1e-6)


def test_what_was_learned_goes_into_a_score_with_other_passes(outputs: Outputs) -> None:
    four, one = learned(), learned(passes=1)
    assert torch.equal(create_score("rotation").taught(one)(*outputs), four(*outputs))
    assert torch.equal(create_score("rotation", passes=1).taught(four)(*outputs), one(*outputs))


@pytest.mark.parametrize("passes", [0, 2, 3, 5, "all"])
def test_there_are_one_pass_and_four(passes: object) -> None:
    with pytest.raises(ConfigError, match="passes"):
        create_score("rotation", passes=passes)


def test_it_is_a_part_of_combined_scores(outputs: Outputs) -> None:
    both = create_score("energy+rotation")
    assert both.uses_map
    assert set(both.needs) == {"logits", "features", "turned images"}
    parts: list[Score] = both.parts()
    assert isinstance(parts[1], Rotation)
    parts[1].set_layer(normal(4, WIDTH, seed=1), normal(4, seed=2))
    both.fit(outputs.features, outputs.logits, torch.zeros(20, dtype=torch.int64), None, outputs.feature_map)
    energy, rotation = create_score("energy")(*outputs), learned()(*outputs)

    def surprise(values: Tensor, i: int) -> float:
        return -math.log((int((values >= values[i]).sum()) + 1) / 21)

    inner = [i for i in range(20) if max(int((v <= v[i]).sum()) for v in (energy, rotation)) < 18]  # none in a tail
    expected = [surprise(energy, i) + surprise(rotation, i) for i in inner]
    np.testing.assert_allclose(both(*outputs)[inner], expected, rtol=1e-4)


def test_a_score_of_the_last_map_beside_it_is_refused_with_the_fix() -> None:
    options = {"rejection": {"tap": "map"}}
    with pytest.raises(ConfigError, match=r"'rotation' \(turned images\) and 'rejection' \(feature map\).*'passes': 1"):
        create_score("rotation+rejection", part_options=options)
    both = create_score("rotation+rejection", part_options={**options, "rotation": {"passes": 1}})
    assert "turned images" not in both.needs


def test_it_says_that_images_need_an_up() -> None:
    assert "have an up" in Rotation.caution
