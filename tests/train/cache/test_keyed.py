"""Keys: equal where the content is, in every process and precision, and others where anything else determines it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import guard
from train.cache.keyed import (
    content_digest,
    digest,
    file_digest,
    images_identity,
    kept_path,
    keyed_path,
    model_identity,
    weights_digest,
)
from train.cache.shared_model import write_finished
from train.cache.trained_network import Schedule
from train.generators.cvae import CVAEOptions
from train.generators.dcgan import DCGANOptions
from train.outliers.base import PrepareContext

TINY_GAN, TINY_VAE = DCGANOptions(latent=6, width=2), CVAEOptions(latent=4, width=2)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


IN_ANOTHER_PROCESS = """
import numpy as np, torch
from torch import nn
from train.cache.keyed import digest

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
print(digest({"b": [net, 1.5, None, torch.arange(3)], "a": np.ones((2, 2), np.float32)}))
"""


def test_a_key_is_the_same_in_another_process() -> None:
    here = digest({"a": np.ones((2, 2), np.float32), "b": (network(), 1.5, None, torch.arange(3))})
    there = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        cwd=Path(guard.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_a_key_does_not_depend_on_the_precision_of_the_computation() -> None:
    net = network().eval()
    before = weights_digest(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.randn(5, 3))
        assert weights_digest(net) == before
    # and of a model that one machine loads in half precision, and another in single, it need not
    assert weights_digest(network().half(), torch.float16) == weights_digest(network(), torch.float16)
    assert weights_digest(network().half()) != before


def test_other_weights_options_types_and_shapes_have_other_keys() -> None:
    changed = network()
    with torch.no_grad():
        changed[0].weight[0, 0] = torch.nextafter(changed[0].weight[0, 0], torch.tensor(9.0))  # type: ignore[index]
    other_statistics = network()
    other_statistics(torch.randn(6, 3))
    keys = [digest({"model": m, "lr": 1}) for m in (network(), network(1), changed, other_statistics)]
    keys += [digest({"model": network(), "lr": 2}), digest({"model": network()})]
    zeros = torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6, dtype=torch.int32)
    keys += [content_digest(z) for z in zeros]
    assert len(set(keys)) == len(keys)
    assert content_digest(np.zeros((2, 3), np.float32)) == content_digest(torch.zeros(2, 3))
    assert content_digest(torch.arange(6).view(2, 3).T) == content_digest(torch.arange(6).view(2, 3).T.contiguous())


def test_a_network_has_the_digest_of_its_file(tmp_path: Path) -> None:
    """What runs share is compared by file where nothing is built, and by network where it is."""
    write_finished(tmp_path, "pair", network(), TINY_GAN)
    assert file_digest(tmp_path / "pair.safetensors") == weights_digest(network())


class Wrapped:
    """A model that is not a network and has two."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        self.encoder, self.decoder, self.scale = network(seed), network(seed + 1), torch.tensor(scale)
        self.calls = seed


class Says:
    identity = "v1"


def test_a_model_is_known_by_its_weights_or_by_what_it_says() -> None:
    assert model_identity(network()) == weights_digest(network())
    assert model_identity(Wrapped()) == model_identity(Wrapped())
    assert len({model_identity(m) for m in (Wrapped(), Wrapped(1), Wrapped(scale=2.0), Says(), network())}) == 5
    assert model_identity(Says()) == "v1"


def test_everything_that_determines_the_content_has_a_file_of_its_own(context: PrepareContext) -> None:
    schedule = Schedule(epochs=1)
    fewer = replace(context, data=context.data.subset(np.arange(300)))
    paths = {
        kept_path(context, "dcgan", TINY_GAN, schedule),
        kept_path(context, "cvae", TINY_VAE, schedule),
        kept_path(context, "dcgan", DCGANOptions(latent=7, width=2), schedule),
        kept_path(context, "dcgan", TINY_GAN, Schedule(epochs=2)),
        kept_path(replace(context, seed=1), "dcgan", TINY_GAN, schedule),
        kept_path(fewer, "dcgan", TINY_GAN, schedule),
    }
    assert len(paths) == 6
    assert kept_path(context, "dcgan", TINY_GAN, schedule) in paths


def test_some_rows_of_the_images_are_other_images(context: PrepareContext) -> None:
    some = np.arange(0, 300, 2)
    whole, part = images_identity(context.data), images_identity(context.data, some)
    assert whole != part
    assert part["rows"] == images_identity(context.data.subset(some))["rows"]
    assert keyed_path(context.folder, "means", part, "").parent == context.folder


def test_an_unknown_kind_of_value_is_refused() -> None:
    with pytest.raises(TypeError):
        digest({"a": object()})
