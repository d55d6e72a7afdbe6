"""Networks kept between runs: a killed training resumes, a finished one is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guard.errors import ArtefactDamagedError
from train.cache import trained_network as kept
from train.generators.cvae import CVAEOptions, trained_cvae
from train.generators.dcgan import TrainedDCGANOptions, trained_generator
from train.outliers.base import PrepareContext

TINY_GAN, TINY_VAE = TrainedDCGANOptions(latent=6, width=2), CVAEOptions(latent=4, width=2)


def state(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(value.equal(b[name]) for name, value in a.items())


def train(kind: str, context: PrepareContext, epochs: int = 3) -> dict[str, Tensor]:
    if kind == "dcgan":
        return state(trained_generator(context, TINY_GAN.model_copy(update={"epochs": epochs})))
    return state(trained_cvae(context, TINY_VAE.model_copy(update={"epochs": epochs})))


@pytest.mark.parametrize("kind", ["dcgan", "cvae"])
def test_a_killed_training_ends_as_an_uninterrupted_one(
    kind: str, context: PrepareContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within its third epoch; the optimizers' moments come back too, or the last epoch would differ."""
    torch.manual_seed(1)
    whole = train(kind, context)
    torch.manual_seed(2)  # what was drawn before does not matter
    other = replace(context, folder=tmp_path / "other")
    keep, epochs = kept._keep, []

    def killed(path: Path, network: object, done: int, schedule: object) -> None:
        keep(path, network, done, schedule)  # type: ignore[arg-type]
        epochs.append(done)
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        train(kind, other)
    assert epochs == [1, 2]
    assert same(train(kind, other), whole)
    assert epochs == [1, 2, 3]  # only what was missing


def test_a_finished_one_is_taken_and_not_trained_again(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("cvae", context)
    monkeypatch.setattr("train.generators.cvae.CVAE.update", lambda *_: pytest.fail("trained again"))
    assert same(train("cvae", context), first)


def test_a_damaged_file_is_refused_with_what_to_do(context: PrepareContext) -> None:
    train("cvae", context, epochs=1)
    (path,) = context.folder.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtefactDamagedError, match=r"cvae-.*safetensors is damaged .*remove it to train it anew"):
        train("cvae", context, epochs=1)


def test_nothing_is_left_to_learn_afterwards(context: PrepareContext) -> None:
    network = trained_generator(context, TINY_GAN.model_copy(update={"epochs": 1}))
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
