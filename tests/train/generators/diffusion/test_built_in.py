"""The built-in diffusion model: forms, training, resuming, sharing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guard.data import load
from guard.errors import ArtefactDamagedError, ConfigError
from tests.conftest import Arrays
from train.generators.diffusion import Diffusion, DiffusionOptions, make_diffusion
from train.generators.diffusion import training as training_module
from train.generators.diffusion.model import BuiltInDiffusion
from train.methods.label_mixup import LabelMixupImages
from train.outliers.base import PrepareContext

SMALL: dict[str, Any] = {"epochs": 2, "width": 8, "batch_size": 16, "sampling_steps": 2}


def setting_of(arrays: Arrays, folder: Path, seed: int = 0) -> PrepareContext:
    return PrepareContext(None, load(arrays, channels=arrays[0].shape[-1]), folder, seed, torch.device("cpu"))  # type: ignore[arg-type]


def built(arrays: Arrays, folder: Path, /, **options: Any) -> BuiltInDiffusion:
    made = make_diffusion(setting_of(arrays, folder), DiffusionOptions(**{**SMALL, **options}))
    assert isinstance(made, BuiltInDiffusion)
    return made


@pytest.fixture(scope="module")
def some(four: Arrays) -> Arrays:
    return four[0][:64], four[1][:64]


@pytest.fixture(scope="module")
def model(some: Arrays, tmp_path_factory: pytest.TempPathFactory) -> BuiltInDiffusion:
    return built(some, tmp_path_factory.mktemp("built"))


def drawn(model: BuiltInDiffusion, classes: list[int], seed: int = 0) -> torch.Tensor:
    labels = torch.tensor(classes)
    return model.sample(model.condition(labels), labels, torch.Generator().manual_seed(seed))


FORMS: dict[str, dict[str, Any]] = {
    "token": {},
    "label": {"conditioning": "label", "prediction": "epsilon"},
    "patch": {"patch": 2},
    "latent": {"latent": True, "epochs": 1},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(16, 16, 3), (13, 18, 1)])
def test_every_form_speaks_the_interface_at_the_images_size(
    form: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    arrays = generator.integers(0, 256, (24, *shape), dtype=np.uint8), np.arange(24) % 2
    model = built(arrays, tmp_path, **FORMS[form])
    assert isinstance(model, Diffusion)
    assert model.own_size == shape[:2]
    labels = torch.tensor([0, 1, 1])
    e = model.condition(labels)
    assert e.shape == (3, model.width)
    z = model.encode(torch.from_numpy(arrays[0][:3]))
    assert z.shape == (3, *model.latent_shape)
    assert model.decode(z).shape == (3, *shape)
    assert drawn(model, [0, 1, 1]).shape == (3, *shape)
    e.requires_grad_()
    times = torch.tensor([10, 500, 900])
    loss = model.noise_loss(z, e, labels, times=times, noise=torch.randn(z.shape))
    assert loss.shape == (3,)
    (gradient,) = torch.autograd.grad(loss.sum(), e)
    assert (gradient.norm(dim=1) > 0).all()


def test_pixels_come_back_as_they_were(model: BuiltInDiffusion, some: Arrays) -> None:
    images = torch.from_numpy(some[0][:8])
    assert model.decode(model.encode(images)).equal(images)
    assert model.encode(torch.nn.functional.pad(images, (0, 0, 3, 3, 5, 5))).shape == (8, *model.latent_shape)


def test_weights_of_classes_are_sums_of_their_anchors(model: BuiltInDiffusion) -> None:
    one = torch.eye(4)
    assert model.condition(one).allclose(model.condition(torch.arange(4)))
    a, b = model.condition(torch.tensor([1])), model.condition(torch.tensor([3]))
    assert model.condition(one[1:2] + one[3:4]).allclose(a + b)


def test_noise_loss_is_the_error_of_the_noise_that_v_stands_for(model: BuiltInDiffusion, some: Arrays) -> None:
    z, labels = model.encode(torch.from_numpy(some[0][:2])), torch.tensor(some[1][:2])
    times, noise = torch.tensor([100, 700]), torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    e = model.condition(labels)
    loss = model.noise_loss(z, e, labels, times=times, noise=noise)
    for i, t in enumerate(times):
        kept = float(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t])
        z_t = kept**0.5 * z[i] + (1 - kept) ** 0.5 * noise[i]
        with torch.no_grad(), model.autocast():
            v = model.denoiser(z_t[None], t[None], e[i][None])[0]
        clean = kept**0.5 * z_t - (1 - kept) ** 0.5 * v
        predicted = (z_t - kept**0.5 * clean) / (1 - kept) ** 0.5
        assert float(loss[i]) == pytest.approx(float((predicted - noise[i]).square().mean()), rel=2e-2)


def test_batches_are_of_the_size_asked_for_and_change_nothing(model: BuiltInDiffusion) -> None:
    labels = torch.tensor([0, 1, 2, 3, 0])
    whole = model.latents(model.condition(labels), labels, torch.Generator().manual_seed(0))
    seen: list[int] = []
    hook = model.denoiser.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        model.batches.size = 2
        parts = model.latents(model.condition(labels), labels, torch.Generator().manual_seed(0))
    finally:
        model.batches.size = 64
        hook.remove()
    assert seen == [4, 4, 4, 4, 2, 2]  # two steps each, both branches at once
    assert parts.allclose(whole, atol=0.05)


def test_samples_follow_the_generator_and_the_class(model: BuiltInDiffusion) -> None:
    assert drawn(model, [0, 1, 2]).equal(drawn(model, [0, 1, 2]))
    assert not drawn(model, [0, 1, 2]).equal(drawn(model, [0, 1, 2], seed=1))
    assert not drawn(model, [0])[0].equal(drawn(model, [1])[0])


@pytest.mark.parametrize("form", ["token", "latent"])
def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    form: str, some: Arrays, model: BuiltInDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"latent": form == "latent"}
    if form == "latent":
        model = built(some, tmp_path / "other", **options)
    real = training_module.Training.epoch

    def killed(self: Any, epoch: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return real(self, epoch)

    monkeypatch.setattr(training_module.Training, "epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        built(some, tmp_path, **options)
    monkeypatch.setattr(training_module.Training, "epoch", real)
    again = built(some, tmp_path, **options)
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    folder = tmp_path / "diffusion"
    assert sorted(p.name for p in folder.iterdir()) == [
        "diffusion.json", "diffusion.safetensors", "metrics.jsonl", "progress", "training.lock"
    ]  # fmt: skip
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert sorted(p.name for p in (folder / "progress").iterdir()) == ["0001.png", "0002.png"]


def test_a_named_folder_shares_a_model_that_fits(some: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path / "shared")
    first = built(some, tmp_path / "a", folder=folder, epochs=1)
    monkeypatch.setattr(training_module.Training, "run", lambda self: pytest.fail("trained again"))
    other = built(some, tmp_path / "b", folder=folder, conditioning="label", width=16, sampling_steps=3)
    assert drawn(first, [0]).shape == drawn(other, [0]).shape
    assert other.steps == 3
    assert first.denoiser.table.equal(other.denoiser.table)
    with pytest.raises(ConfigError, match=r"class_names: \['0', '1', '2', '3'\] then, \['0', '1'\] now"):
        built((some[0], some[1] % 2), tmp_path, folder=folder)
    with pytest.raises(ConfigError, match="height: 16 then, 8 now; width: 16 then, 8 now"):
        built((np.ascontiguousarray(some[0][:, ::2, ::2]), some[1]), tmp_path, folder=folder)
    (tmp_path / "shared" / "diffusion.safetensors").write_bytes(b"short")
    with pytest.raises(ArtefactDamagedError, match="is damaged"):
        built(some, tmp_path, folder=folder)


def test_options_that_a_shared_model_was_not_trained_with_are_named(
    some: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = {"folder": str(tmp_path / "shared"), "epochs": 1}
    built(some, tmp_path / "a", **shared)
    built(some, tmp_path / "b", **shared, sampling_steps=3, guidance=1, sampling_batch=2)
    assert "is used as it was trained" not in caplog.text
    mixup = LabelMixupImages(4, 4, diffusion={**SMALL, **shared, "epochs": 3, "lr": 0.01, "patch": 2})
    mixup.prepare(setting_of(some, tmp_path / "c"))
    assert (
        f"the diffusion model in {tmp_path / 'shared'} is used as it was trained: "
        "diffusion.conditioning is 'token', not 'label'; diffusion.patch is None, not 2; "
        "diffusion.epochs is 1, not 3; diffusion.lr is 0.001, not 0.01\n"
    ) in caplog.text


def test_two_runs_that_begin_together_train_one_model(
    some: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ood_guard")
    real, begun, waited = training_module.Training.epoch, threading.Event(), threading.Event()
    trained: list[str] = []

    def slow(self: Any, epoch: int) -> Any:
        trained.append(threading.current_thread().name)
        begun.set()
        assert waited.wait(60)
        return real(self, epoch)

    def run(name: str) -> BuiltInDiffusion:
        return built(some, tmp_path / name, folder=str(tmp_path / "shared"), epochs=1)

    monkeypatch.setattr(training_module.Training, "epoch", slow)
    with ThreadPoolExecutor(2, "run") as pool:
        first = pool.submit(run, "a")
        assert begun.wait(60)
        second = pool.submit(run, "b")
        while "waiting for another run that trains the diffusion model in" not in caplog.text and not second.done():
            time.sleep(0.05)
        assert not second.done()
        waited.set()
        tables = [made.result(60).denoiser.table for made in (first, second)]
    assert trained == ["run_0"]
    assert tables[0].equal(tables[1])


def test_a_runs_own_model_is_not_mixed_with_other_options(some: Arrays, tmp_path: Path) -> None:
    built(some, tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"diffusion\.epochs: 1 then, 2 now"):
        built(some, tmp_path)
    assert built(some, tmp_path, epochs=1, sampling_steps=5, guidance=1).steps == 5
