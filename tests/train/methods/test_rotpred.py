"""RotPred: one pass over upright, turned and outlier images, what it is refused, and what becomes of its guard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import guard
from guard.errors import ConfigError
from guard.scores.rotation import Rotation
from tests.composition import stages_of
from tests.conftest import Arrays
from tests.references import rotation as reference
from tests.train.engine.runs import short
from train.engine.forward import Forward
from train.losses.rotation import RotationLoss
from train.losses.uniform_target import UniformTargetLoss


@pytest.fixture(scope="module")
def rotpred(four: Arrays, tiny: dict[str, Any]) -> guard.Guard:
    """Trained on all turns for three epochs."""
    return guard.train(four, method="rotpred", **{**tiny, "epochs": 3})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images of every pass that training makes through the network."""
    passes: list[Tensor] = []
    outputs = Forward.outputs

    def spy(self: Forward, images: Tensor) -> Any:
        passes.append(images)
        return outputs(self, images)

    monkeypatch.setattr(Forward, "outputs", spy)
    return passes


class TestItsStep:
    def test_a_batch_and_all_its_turns_are_one_pass_augmented_once(
        self, four: Arrays, tiny: dict[str, Any], seen: list[Tensor]
    ) -> None:
        guard.train(short(four), method="rotpred", **{**tiny, "epochs": 1, "augment": "crop+flip"})
        assert seen
        for images in seen:
            upright, others = images[:32], images[32:]
            turns = {np.rot90(image, k).tobytes() for image in upright.numpy() for k in (1, 2, 3)}
            assert len(others) == 96
            assert {other.tobytes() for other in others.numpy()} == turns

    def test_outliers_are_between_them_and_are_never_turned(
        self, four: Arrays, tiny: dict[str, Any], seen: list[Tensor]
    ) -> None:
        white = np.full((40, 16, 16, 3), 255, np.uint8)
        options = {"ratio": 0.5, "outlier_ratio": 0.25, "epochs": 1}
        guard.train(short(four), method="rotpred", outliers=white, **{**tiny, **options})
        for images in seen:
            assert len(images) == 32 + 8 + 16
            assert (images[32:40] == 255).all()
            assert not (images[40:] == 255).all((1, 2, 3)).any()

    def test_the_losses_are_those_of_their_parts(self) -> None:
        (alone,), (exposed,) = (
            stages_of("rotpred", weight=0.3, ratio=0.5),
            stages_of("rotpred", outliers={"phase_mix": 1.0}),
        )
        (loss,) = alone.regularisers
        assert isinstance(loss, RotationLoss)
        assert (loss.weight, loss.ratio, alone.synthesiser) == (0.3, 0.5, None)
        assert [type(r) for r in exposed.regularisers] == [RotationLoss, UniformTargetLoss]
        assert exposed.synthesiser is not None


class TestRefusals:
    @pytest.mark.parametrize("score", ["rotation", "energy"])
    def test_images_that_are_not_square_before_any_training(
        self, score: str, four: Arrays, tiny: dict[str, Any], seen: list[Tensor]
    ) -> None:
        with pytest.raises(ConfigError, match=r"^images of 16 x 12 pixels.*square size, such as image_size=12"):
            guard.train((four[0][:, :, 2:14], four[1]), method="rotpred", score=score, **tiny)
        assert not seen

    def test_options_of_outliers_where_there_are_none(self, four: Arrays, tiny: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"does not read outlier_weight=0.1 without outliers="):
            guard.train(four, method="rotpred", outlier_weight=0.1, **tiny)

    def test_the_score_on_a_network_that_was_not_trained_for_it(self, four: Arrays, tiny: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="'rotation' is learned by method 'rotpred', not by 'plain'"):
            guard.train(four, method="plain", score="energy+rotation", **tiny)

    def test_a_part_that_another_method_learns(self, four: Arrays, tiny: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="'energy_logistic' is learned by method 'vos', not by 'rotpred'"):
            guard.train(four, method="rotpred", score="rotation+energy_logistic", **tiny)


def by_hand(g: guard.Guard, images: np.ndarray) -> np.ndarray:
    """The guard's score from separate passes over the images and their turns."""
    module = g.module.eval()
    score = next(part for part in module.score.parts() if isinstance(part, Rotation))
    with torch.inference_mode():
        turns = [torch.from_numpy(np.rot90(images, k, (1, 2)).copy()) for k in range(4)]
        shown = [module.classifier(module.normalise(turn)) for turn in turns]
        told = torch.stack([outputs.features @ score.weight.T + score.bias for outputs in shown], 1)
        return reference.rotation(shown[0].logits.numpy(), told.numpy())


class TestItsGuard:
    def test_it_scores_by_the_definition(self, rotpred: guard.Guard, four: Arrays) -> None:
        assert rotpred.manifest.score == "rotation"
        images = four[0][:12]
        np.testing.assert_allclose(rotpred.predict(images).ood_score, by_hand(rotpred, images), rtol=1e-4, atol=1e-4)

    def test_its_graph_takes_any_batch_and_decides_alike(
        self, rotpred: guard.Guard, four: Arrays, noise: np.ndarray, tmp_path: Path
    ) -> None:
        images = np.concatenate([four[0][:40], noise[:20], np.zeros((1, 16, 16, 3), np.uint8)])
        exported = guard.load(guard.export(rotpred, tmp_path / "guard.onnx"), device="cpu")
        ours = rotpred.predict(images)
        for size in (1, 5, len(images)):
            parts = [exported.predict(images[i : i + size]) for i in range(0, len(images), size)]
            score = np.concatenate([part.ood_score for part in parts])
            np.testing.assert_allclose(score, ours.ood_score, rtol=1e-4, atol=1e-4)
            assert np.concatenate([part.is_ood for part in parts]).tolist() == ours.is_ood.tolist()
            assert np.concatenate([part.label for part in parts]).tolist() == ours.label.tolist()

    def test_it_is_the_same_after_saving(self, rotpred: guard.Guard, four: Arrays, tmp_path: Path) -> None:
        rotpred.save_pretrained(tmp_path)
        again = guard.Guard.from_pretrained(tmp_path, device="cpu")
        assert again.predict(four[0][:9]).ood_score.tolist() == rotpred.predict(four[0][:9]).ood_score.tolist()

    @pytest.mark.parametrize("score", ["energy", "vim", "rotation", "energy+rotation", "energy+vim+rotation"])
    def test_every_score_can_be_fitted_to_it_and_exported(
        self, score: str, rotpred: guard.Guard, four: Arrays, tmp_path: Path
    ) -> None:
        g = guard.fit(rotpred, four, score=score, device="cpu", class_conditional=True)
        exported = guard.load(guard.export(g, tmp_path / "guard.onnx"), device="cpu")
        np.testing.assert_allclose(
            exported.predict(four[0][:7]).ood_score, g.predict(four[0][:7]).ood_score, rtol=1e-3, atol=1e-3
        )
        if score == "rotation":
            np.testing.assert_allclose(g.predict(four[0][:7]).ood_score, by_hand(g, four[0][:7]), rtol=1e-4, atol=1e-4)

    def test_one_pass_needs_no_other_training(self, rotpred: guard.Guard, four: Arrays, tmp_path: Path) -> None:
        g = guard.fit(rotpred, four, score="rotation", score_options={"passes": 1}, device="cpu", out=tmp_path / "one")
        assert g.manifest.score_options == {"passes": 1}
        score = g.module.score
        upright = g.module.outputs(torch.from_numpy(four[0][:7]))
        told = (upright.features @ score.weight.T + score.bias).detach()[:, None]
        expected = reference.rotation(upright.logits.detach().numpy(), told.numpy())
        np.testing.assert_allclose(g.predict(four[0][:7]).ood_score, expected, rtol=1e-4, atol=1e-4)
        # and back: a run with one pass keeps all that was learned
        back = guard.fit(tmp_path / "one", four, score="rotation", device="cpu")
        np.testing.assert_allclose(
            back.predict(four[0][:7]).ood_score, rotpred.predict(four[0][:7]).ood_score, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("head", ["cosine", "hypersphere", "c_plus_1", "mlp"])
def test_grey_images_two_classes_odd_batches_and_other_heads(head: str, four: Arrays, tiny: dict[str, Any]) -> None:
    images, labels = four[0][::2], four[1][::2] // 2
    options = {**tiny, "epochs": 1, "batch_size": 15, "in_chans": 1, "head": head, "lr": 0.01}
    g = guard.train((images, labels), method="rotpred", ratio=0.7, outliers="phase_mix", score="rotation", **options)
    assert np.isfinite(g.predict(images[:5]).ood_score).all()


def test_it_trains_in_bfloat16(
    four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a GPU, passes are in bfloat16; here a CPU does the same, and the loss is in float32."""
    terms: list[Tensor] = []
    features: list[torch.dtype] = []
    loss = RotationLoss.loss

    def spy(self: RotationLoss, batch: Any) -> dict[str, Tensor]:
        features.append(batch.inliers.features.dtype)
        found = loss(self, batch)
        terms.append(found["rotation"].detach())
        return found

    monkeypatch.setattr(RotationLoss, "loss", spy)
    monkeypatch.setattr("train.engine.forward.mixed_precision", lambda device: lambda: torch.autocast("cpu"))
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        guard.train(short(four), method="rotpred", **{**tiny, "epochs": 2})
    assert set(features) == {torch.bfloat16}
    assert {t.dtype for t in terms} == {torch.float32}
    assert torch.stack(terms).isfinite().all()
    assert "told apart" in caplog.text  # so few epochs may be too few, which is said as well
