"""The synthesiser of stages that train without outliers, and which synthesisers need a classifier."""

from __future__ import annotations

import pytest
import torch

from train.outliers.base import IDBatch, NoOutliers, get_synthesiser


def test_no_outliers_are_none_in_the_form_of_the_batch_and_draw_nothing() -> None:
    batch = IDBatch(torch.zeros(5, 8, 6, 3, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    made = NoOutliers().sample(batch, generator)
    assert made.data.shape == (0, 8, 6, 3)
    assert made.data.dtype == torch.uint8
    assert generator.get_state().equal(before)
    assert not NoOutliers().state_dict()


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("kirby", {}, True),
        ("adversarial_noise", {}, True),
        ("salient_pixels", {}, True),
        ("blurred_object", {}, True),
        ("blurred_object", {"detector": "a/model"}, False),
        ("pixel_average", {}, False),
        ("gan", {}, False),
    ],
)
def test_whether_a_classifier_is_needed_depends_on_the_options(
    name: str, options: dict[str, str], needed: bool
) -> None:
    kind = get_synthesiser(name)
    assert kind.needs_classifier(kind.Options(**options)) is needed
