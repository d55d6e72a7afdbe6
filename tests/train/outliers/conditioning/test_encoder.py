"""The encoder into a diffusion model's conditioning space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

import guard
from guard.data import load
from guard.errors import ArtefactDamagedError, ConfigError
from tests.conftest import Arrays
from train.cache import trained_network as kept
from train.outliers.base import PrepareContext
from train.outliers.conditioning.encoder import (
    AnchoredEncoder,
    EncoderOptions,
    anchor_logits,
    trained_encoder,
    training_features,
)
from train.runs.synth import untrained

OPTIONS = EncoderOptions(backbone="wrn10_2", epochs=4, batch_size=20, augment="crop")
SHORT = OPTIONS.model_copy(update={"epochs": 2})


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_features_point_to_the_anchor_of_their_class(context: PrepareContext, anchors: Tensor) -> None:
    encoder = trained_encoder(context, anchors, OPTIONS)
    features, labels = training_features(context, encoder, OPTIONS)
    assert features.shape == (200, 24)
    assert labels.equal(torch.from_numpy(np.asarray(context.data.labels)))
    cosines = cosine_similarity(features.numpy(), anchors.numpy())
    assert (cosines.argmax(1) == labels.numpy()).mean() > 0.9
    assert encoder.anchors.equal(anchors)  # frozen
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_loss_is_that_of_cosines_over_the_temperature(anchors: Tensor) -> None:
    features = 3 * torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    expected = cosine_similarity(features.numpy(), anchors.numpy()) / 0.1
    np.testing.assert_allclose(anchor_logits(features, anchors, 0.1).numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    encoder = AnchoredEncoder("wrn10_2", anchors, channels=3, image_size=16)
    images, labels = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.no_grad():
        logits = encoder.logits(encoder.train()(images)).double().numpy()
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels.numpy()]
    np.testing.assert_allclose(float(encoder.update(images, labels)["loss"]), each.mean(), rtol=1e-2)


def test_a_killed_training_ends_as_an_uninterrupted_one(
    context: PrepareContext, anchors: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its momentum, and where the learning rate had come to."""
    torch.manual_seed(1)
    whole = trained_encoder(context, anchors, SHORT)
    torch.manual_seed(2)
    other = replace(context, folder=tmp_path / "other")
    keep = kept._keep

    def killed(path: Path, network: object, done: int, schedule: object) -> None:
        keep(path, network, done, schedule)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        trained_encoder(other, anchors, SHORT)
    monkeypatch.setattr(kept, "_keep", keep)
    resumed = trained_encoder(other, anchors, SHORT)
    assert same(whole, resumed)
    assert training_features(context, whole, SHORT).data.equal(training_features(other, resumed, SHORT).data)


def test_the_learning_rate_falls_to_zero(anchors: Tensor) -> None:
    encoder = AnchoredEncoder("wrn10_2", anchors, channels=3, image_size=16, lr=0.2)
    rates = []
    for done in (0.05, 0.5, 0.99):
        encoder.set_progress(done)
        rates.append(encoder.optimizers()["encoder"].param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.2)
    assert 0.2 > rates[1] > 0.05 > rates[2] > 0


def test_features_are_computed_once_and_belong_to_these_anchors(
    context: PrepareContext, anchors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = trained_encoder(context, anchors, SHORT)
    first = training_features(context, encoder, SHORT)
    augmented = training_features(context, encoder, SHORT, augmented=True)
    assert not first.data.equal(augmented.data)
    other = trained_encoder(context, anchors + 1, SHORT)
    assert not same(encoder, other)
    monkeypatch.setattr(AnchoredEncoder, "forward", lambda *_: pytest.fail("computed again"))
    again = training_features(context, encoder, SHORT)
    assert first.data.equal(again.data)
    assert training_features(context, encoder, SHORT, augmented=True).data.equal(augmented.data)
    (path,) = [p for p in context.folder.glob("features-*") if "augmented" not in p.name]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtefactDamagedError, match=r"features-.*safetensors is damaged .*remove it"):
        training_features(context, encoder, SHORT)


def test_two_grey_classes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 100, (24, 12, 16, 1), dtype=np.uint8)
    images[::2, :6] += 100
    data = load((images, np.arange(24) % 2), channels=1)
    options = OPTIONS.model_copy(update={"batch_size": 8, "epochs": 15})
    right = []
    for seed in range(3):  # one alone may end at 0.79, on some processors
        grey = PrepareContext(untrained(data, torch.device("cpu")), data, tmp_path, seed, torch.device("cpu"))
        encoder = trained_encoder(grey, torch.eye(2, 5), options)
        features, labels = training_features(grey, encoder, options)
        right.append(float((encoder.logits(features).argmax(-1) == labels).float().mean()))
    assert np.mean(right) > 0.9


def test_offsets_of_the_anchors_are_learned_only_where_asked_for(context: PrepareContext, anchors: Tensor) -> None:
    encoder = trained_encoder(context, anchors, SHORT, learned=True)
    assert encoder.delta is not None
    assert encoder.anchors.equal(anchors)
    assert (encoder.targets() - anchors).norm(dim=-1).min() > 1e-3
    assert trained_encoder(context, anchors, SHORT).delta is None


def test_anchors_that_are_the_same_are_refused_before_anything_is_trained(
    context: PrepareContext, anchors: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = anchors.clone()
    twin[3], twin[2] = 2 * twin[1], 3 * twin[1]
    monkeypatch.setattr("train.outliers.conditioning.encoder.train_kept", lambda *_: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=r"3 pairs of classes have the same embedding .1 = 2, 1 = 3, 2 = 3"):
        trained_encoder(context, twin, SHORT)


@pytest.mark.parametrize("method", ["dream_ood", "dream_id", "bood", "fodfom"])
def test_an_unknown_backbone_is_named_before_anything_is_trained(method: str, four: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'wrn16_x'; did you mean .*wrn16_2"):
        guard.train(four, method=method, out=tmp_path / "run", encoder={"backbone": "wrn16_x"})
    assert not (tmp_path / "run").exists()
