"""The default pair: training, files, resuming."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guard.data import ImageData, load
from guard.errors import ArtefactDamagedError, ConfigError
from tests.conftest import Arrays
from train.cache import shared_model as finished
from train.generators.latent_pair.base import PairOptions
from train.generators.latent_pair.style_pair import StylePair, resolution
from train.generators.latent_pair.training import PairTraining, _card, style_pair
from train.outliers.base import PrepareContext, create_synthesiser

TINY = PairOptions(width=4, latent=8, batch_size=20, epochs=2)


@pytest.fixture
def data() -> ImageData:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 12, 1), dtype=np.uint8)
    return load((images, np.arange(60) % 2), channels=1)


def context(data: ImageData, folder: Path, seed: int = 0) -> PrepareContext:
    return PrepareContext(None, data, folder, seed, torch.device("cpu"))  # type: ignore[arg-type]  # it reads no network


def weights(pair: StylePair) -> torch.Tensor:
    return torch.cat([p.flatten() for p in pair.state_dict().values()])


def test_one_seed_gives_one_pair_and_another_another(data: ImageData, tmp_path: Path) -> None:
    made = [style_pair(context(data, tmp_path / str(i), seed), TINY) for i, seed in enumerate((0, 0, 1))]
    assert weights(made[0]).equal(weights(made[1]))
    assert not weights(made[0]).equal(weights(made[2]))
    files = [(tmp_path / str(i) / "pair" / "pair.safetensors").read_bytes() for i in range(2)]
    assert files[0] == files[1]
    names = sorted(p.name for p in (tmp_path / "0" / "pair").iterdir())
    assert names == ["pair.json", "pair.safetensors", "progress", "training.lock"]
    picture = Image.open(tmp_path / "0" / "pair" / "progress" / "0002.png")
    assert picture.size == (2 * (12 * 14 - 2), 2 * (3 * 10 - 2))


def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = style_pair(context(data, tmp_path / "whole"), TINY)
    train = PairTraining.epoch

    def killed(self: PairTraining, epoch: int) -> dict[str, float]:
        if epoch == 1:
            raise KeyboardInterrupt
        return train(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(PairTraining, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            style_pair(context(data, tmp_path / "killed"), TINY)
    assert (tmp_path / "killed" / "pair" / "checkpoint.safetensors").exists()
    epochs: list[int] = []

    def counted(self: PairTraining, epoch: int) -> dict[str, float]:
        epochs.append(epoch)
        return train(self, epoch)

    monkeypatch.setattr(PairTraining, "epoch", counted)
    resumed = style_pair(context(data, tmp_path / "killed"), TINY)
    assert epochs == [1]
    assert weights(resumed).equal(weights(whole))
    style_pair(context(data, tmp_path / "killed"), TINY)
    assert epochs == [1]  # what is finished is loaded


def test_what_was_trained_otherwise_is_refused_or_taken_where_it_was_named(
    data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="ood_guard")
    style_pair(context(data, tmp_path), TINY)
    wider = TINY.model_copy(update={"width": 6})
    with pytest.raises(ConfigError, match=r"holds a pair that does not fit.*'width'.*choose another folder"):
        style_pair(context(data, tmp_path), wider)
    with pytest.raises(ConfigError, match="seed: 0 then, 1 now"):
        style_pair(context(data, tmp_path, seed=1), TINY)
    named = wider.model_copy(update={"folder": str(tmp_path / "pair")})
    style_pair(context(data, tmp_path / "other"), TINY.model_copy(update={"folder": named.folder}))
    assert not caplog.text
    asked = named.model_copy(update={"epochs": 3})
    shared = style_pair(context(data, tmp_path / "other", seed=1), asked)
    said = "is used as it was trained: epochs is 2, not 3; width is 4, not 6"
    assert caplog.messages == [f"the pair in {tmp_path / 'pair'} {said}"]
    assert weights(shared).equal(weights(style_pair(context(data, tmp_path), TINY)))
    assert not (tmp_path / "other").exists()
    others = load((np.zeros((60, 8, 12, 1), np.uint8), np.arange(60) % 2), channels=1)
    with pytest.raises(ConfigError, match="data_fingerprint"):
        style_pair(context(others, tmp_path / "other"), named)
    (tmp_path / "pair" / "pair.safetensors").write_bytes(b"cut short")
    with pytest.raises(ArtefactDamagedError, match="is damaged"):
        style_pair(context(data, tmp_path), TINY)


def test_a_pair_that_another_run_trains_is_waited_for(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for again once the lock is had."""
    folder = tmp_path / "shared"
    options = TINY.model_copy(update={"folder": str(folder), "epochs": 1})
    alone = finished._alone

    @contextlib.contextmanager
    def after_another(where: Path, what: str) -> Iterator[None]:
        monkeypatch.setattr(finished, "_alone", alone)
        others.append(style_pair(context(data, tmp_path / "a"), options))
        monkeypatch.setattr(PairTraining, "run", lambda *_: pytest.fail("trained again"))
        with alone(where, what):
            yield

    others: list[StylePair] = []
    monkeypatch.setattr(finished, "_alone", after_another)
    mine = style_pair(context(data, tmp_path / "b", seed=1), options)
    assert weights(mine).equal(weights(others[0]))


def test_held_out_rows_in_a_shared_pair_are_pointed_out(
    data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = TINY.model_copy(update={"folder": str(tmp_path / "pair"), "epochs": 1})
    style_pair(context(data.subset(np.arange(40)), tmp_path), options)
    assert "held-out" not in caplog.text
    style_pair(context(data.subset(np.arange(20, 60)), tmp_path), options)
    assert "may have seen held-out images" in caplog.text


def test_reconstructions_of_digits_beat_the_class_means(four: Arrays, tmp_path: Path) -> None:
    images, labels = four[0][..., :1], four[1]
    data = load((images, labels), channels=1)
    options = PairOptions(width=8, latent=32, batch_size=16, epochs=6, adversarial=0.0)
    pair = style_pair(context(data, tmp_path), options)
    x = images.astype(np.float64)
    means = np.stack([x[labels == c].mean(0) for c in range(4)])[labels]
    made = pair.generate(pair.encode(torch.from_numpy(images))).numpy()
    assert np.abs(made - x).mean() < 0.7 * np.abs(means - x).mean()


def test_the_adversarial_part_acts_on_the_mapping(data: ImageData, tmp_path: Path) -> None:
    untrained = PairTraining(data, _card(context(data, tmp_path), TINY), torch.device("cpu")).pair.mapping
    with_discriminator = style_pair(context(data, tmp_path / "a"), TINY).mapping
    without = style_pair(context(data, tmp_path / "b"), TINY.model_copy(update={"adversarial": 0.0})).mapping
    assert untrained.last.weight.equal(without.last.weight)
    assert not untrained.last.weight.equal(with_discriminator.last.weight)


@pytest.mark.parametrize(("sides", "asked", "expected"), [((8, 8), None, 8), ((28, 28), None, 32), ((5, 4), None, 8),
                                                          ((96, 40), None, 64), ((224, 224), 128, 128)])  # fmt: skip
def test_the_generators_resolution(sides: tuple[int, int], asked: int | None, expected: int) -> None:
    assert resolution(*sides, asked) == expected


def test_a_resolution_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"option pair.size: must be a power of two; use 32, got 48"):
        create_synthesiser("dmr", 4, 3, pair={"size": 48})


def test_a_pair_of_an_earlier_version_is_read(data: ImageData, tmp_path: Path) -> None:
    """Its card has the options under the names that began with "pair_"."""
    made = style_pair(context(data, tmp_path), TINY)
    path = tmp_path / "pair" / "pair.json"
    card = json.loads(path.read_text())
    old = {"model": "pair", "batch_size": "pair_batch"}
    card["options"] = {old.get(name, f"pair_{name}"): value for name, value in card["options"].items()}
    assert {"pair", "pair_folder", "pair_batch", "pair_width"} <= set(card["options"])
    path.write_text(json.dumps(card))
    assert weights(style_pair(context(data, tmp_path), TINY)).equal(weights(made))
    with pytest.raises(ConfigError, match="holds a pair that does not fit"):
        style_pair(context(data, tmp_path), TINY.model_copy(update={"width": 6}))


def test_images_of_other_sizes_come_back_in_their_size() -> None:
    torch.manual_seed(0)
    pair = StylePair(16, 4, 8, num_classes=2, image_height=10, image_width=20, channels=3).eval()
    images = torch.randint(0, 256, (2, 10, 20, 3), dtype=torch.uint8)
    w = pair.encode(images)
    assert w.shape == (2, 6, 8)
    made = pair.generate(w)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    drawn = pair.sample(torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 6, 8)
    assert drawn[:, 0].equal(drawn[:, 5])  # one style for all layers


def test_pixels_survive_the_way_to_the_signal_and_back() -> None:
    pair = StylePair(8, 4, 8, num_classes=2, image_height=8, image_width=8, channels=1)
    images = torch.arange(256, dtype=torch.uint8).view(4, 8, 8, 1)
    assert pair.to_pixels(pair.to_signal(images)).equal(images)


def test_training_a_pair_leaves_torchs_own_random_numbers_alone(data: ImageData, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    style_pair(context(data, tmp_path), TINY)
    assert torch.randn(3).equal(expected)
