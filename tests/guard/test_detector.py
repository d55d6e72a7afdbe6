"""`Guard.predict`: the same answers for every form and batch of images, from torch and from a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guard
from guard.errors import ConfigError, ImageError
from guard.runtimes import Runtime
from tests.conftest import Arrays


@pytest.fixture(params=["torch", "onnxruntime"])
def g(request: pytest.FixtureRequest, trained: Callable[[str], Any], exported: Callable[[str], Path]) -> guard.Guard:
    return trained("plain") if request.param == "torch" else guard.load(exported("plain"), device="cpu")


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_every_form_of_an_image_is_one_image(g: guard.Guard, four: Arrays, tmp_path: Path) -> None:
    image = four[0][3]
    (tmp_path / "a.png").write_bytes(png(image))
    forms = [image, png(image), Image.fromarray(image), tmp_path / "a.png", str(tmp_path / "a.png"), image[..., 0]]
    expected = g.predict(image)[0]
    assert expected.label == g.predict([image]).label[0]
    for form in forms:
        verdicts = g.predict(form)
        assert len(verdicts) == 1
        assert verdicts[0] == expected
    together = g.predict(forms)
    np.testing.assert_allclose(together.ood_score, expected.ood_score, rtol=1e-5)
    assert len(g.predict(form for form in forms)) == len(forms)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_do_not_matter(g: guard.Guard, four: Arrays, batch_size: int) -> None:
    images = four[0][:33]
    a, b = g.predict(images), g.predict(list(images), batch_size=batch_size)
    np.testing.assert_array_equal(a.label, b.label)
    np.testing.assert_allclose(a.ood_score, b.ood_score, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-5)


def test_no_images_give_empty_verdicts(g: guard.Guard) -> None:
    verdicts = g.predict([])
    assert len(verdicts) == 0
    assert verdicts.probabilities.shape == (0, 4)
    assert verdicts.p_value.shape == (0,)
    assert list(verdicts) == verdicts.class_name == []


def test_verdicts_agree_with_each_other(g: guard.Guard, four: Arrays) -> None:
    verdicts = g.predict(four[0][:50])
    np.testing.assert_allclose(verdicts.probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(verdicts.label, verdicts.probabilities.argmax(1))
    np.testing.assert_array_equal(verdicts.is_ood, verdicts.ood_score > verdicts.threshold)
    scores = g.manifest.calibration.scores
    assert [v.probability for v in verdicts] == verdicts.probabilities.max(1).tolist() == verdicts.probability.tolist()
    for verdict in verdicts:
        assert verdict.p_value == (1 + (scores >= np.float32(verdict.ood_score)).sum()) / (len(scores) + 1)
        assert verdict.class_name == g.class_names[verdict.label]
        assert verdict.probability == pytest.approx(
            verdicts.probabilities.max(1)[verdicts.ood_score == verdict.ood_score][0]
        )
    part = verdicts[10:20]
    assert len(part) == 10
    assert part[0] == verdicts[10]
    assert [v.label for v in part] == verdicts.label[10:20].tolist()


def test_a_threshold_for_one_call_stays_in_that_call(g: guard.Guard, four: Arrays) -> None:
    assert g.predict(four[0][:9], threshold=-np.inf).is_ood.all()
    assert not g.predict(four[0][:9], threshold=np.inf).is_ood.any()
    assert g.predict(four[0][:9]).threshold == g.threshold


def test_calibrating_makes_another_guard(g: guard.Guard, four: Arrays) -> None:
    before = g.threshold
    other = g.calibrate(four[0][:150], alpha=0.3)
    assert g.threshold == before
    assert other.threshold != before
    assert other.runtime is g.runtime
    assert other.manifest.parity is None
    assert abs(other.predict(four[0][:150]).is_ood.mean() - 0.3) < 0.02


def test_the_runtime_refuses_what_the_graph_would_misread(g: guard.Guard, four: Arrays) -> None:
    assert isinstance(g.runtime, Runtime)
    for wrong in (four[0][:2].astype(np.float32), four[0][:2, :8], four[0][0], four[0][:2, ..., :1]):
        with pytest.raises(ImageError, match=r"the graph takes uint8 \(N, 16, 16, 3\), got "):
            g.runtime.run(wrong)


def test_a_view_that_is_not_contiguous_is_read_right(g: guard.Guard, four: Arrays) -> None:
    flipped = four[0][:5, :, ::-1]
    expected = g.predict_batches([np.ascontiguousarray(flipped)]).ood_score
    np.testing.assert_array_equal(g.predict_batches([flipped]).ood_score, expected)


def test_repr_says_what_it_is(g: guard.Guard) -> None:
    assert "4 classes, wrn10_2, score energy, threshold " in repr(g)
    assert f"{g.runtime.name} on cpu" in repr(g)


def test_an_exported_guard_has_no_torch_module(exported: Callable[[str], Path], trained: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match="runs on onnxruntime and has no torch module"):
        _ = guard.load(exported("plain"), device="cpu").module
    assert trained("plain").module is trained("plain").runtime.module


def test_predicting_leaves_training_mode_and_gradients_alone(trained: Callable[[str], Any], four: Arrays) -> None:
    """A module in training mode would answer with batch statistics; the runtime puts it right before each run."""
    g = trained("plain")
    expected = g.predict(four[0][:9]).ood_score
    g.module.train()
    np.testing.assert_array_equal(g.predict(four[0][:9]).ood_score, expected)
    assert not any(p.grad is not None and p.grad.isnan().any() for p in g.module.parameters())
    assert torch.is_grad_enabled()
