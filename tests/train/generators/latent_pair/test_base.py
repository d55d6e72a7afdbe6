"""Pairs by name, and the adapter for StyleGAN networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from train.generators.latent_pair import PairOptions, SamplingPair, StyleGANPair, make_pair, register_pair
from train.outliers.base import PrepareContext, create_synthesiser


class Pixels:
    """w is the image itself, one style per row."""

    def encode(self, images: Tensor) -> Tensor:
        return images.flatten(2).float()

    def generate(self, w: Tensor) -> Tensor:
        return w.round().clamp(0, 255).to(torch.uint8).unflatten(2, (-1, 3))


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    data = load((np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2))
    return PrepareContext(None, data, tmp_path, 0, torch.device("cpu"))  # type: ignore[arg-type]


def test_a_registered_pair_is_made_by_its_factory(context: PrepareContext) -> None:
    seen: list[Any] = []

    def factory(context: PrepareContext, options: PairOptions) -> Pixels:
        seen.append((context, options))
        return Pixels()

    register_pair("pixels", factory)
    options = PairOptions(model="pixels")
    made = make_pair(context, options)
    assert isinstance(made, Pixels)
    assert not isinstance(made, SamplingPair)
    assert seen == [(context, options)]


def test_names_and_objects_that_are_no_pairs_are_refused(context: PrepareContext) -> None:
    register_pair("half", lambda context, options: object())  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"pair 'half' must have encode\(images\)"):
        make_pair(context, PairOptions(model="half"))
    with pytest.raises(ConfigError, match=r"did you mean .*'style'"):
        create_synthesiser("dmr", 4, 3, pair="stile")
    with pytest.raises(ConfigError, match="'style' is the pair that comes with ood-guard"):
        register_pair("style", lambda context, options: Pixels())


def mapping(z: Tensor, c: Tensor | None, truncation_psi: float) -> Tensor:
    """A class shifts the mean; truncation shrinks towards it: w = mean_c + psi z, for 4 layers."""
    mean = torch.zeros(len(z), 1) if c is None else 10 * c.argmax(-1, keepdim=True).float()
    return (mean + truncation_psi * z)[:, None].repeat(1, 4, 1)


def synthesis(w: Tensor, noise_mode: str = "random") -> Tensor:
    """A flat colour: the first layer's first three numbers, over 20; noise unless it is told otherwise."""
    colour = w[:, 0, :3] / 20 + (torch.rand(1) if noise_mode == "random" else 0)
    return colour[:, :, None, None].expand(-1, -1, 16, 16)


def test_stylegan_networks_are_called_as_their_code_calls_them() -> None:
    pair = StyleGANPair(mapping, synthesis, (8, 8, 3), z_dim=5, num_classes=3, truncation=0.5,
                        synthesis_options={"noise_mode": "const"})  # fmt: skip
    labels = torch.tensor([0, 2, 1])
    w = pair.sample(labels, torch.Generator().manual_seed(0))
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(w[:, 3], 10 * labels[:, None] + 0.5 * z)
    images = pair.generate(w)
    assert images.shape == (3, 8, 8, 3)
    expected = ((w[:, 0, :3] / 20 + 1) * 127.5).round().clamp(0, 255)
    assert images[:, 4, 4].float().sub(expected).abs().max() <= 1  # resized
    assert isinstance(pair, SamplingPair)
    grey = StyleGANPair(mapping, synthesis, (8, 8, 1), z_dim=5, synthesis_options={"noise_mode": "const"})
    w = grey.sample(labels, torch.Generator().manual_seed(0))
    torch.testing.assert_close(w[:, 0], z)  # no classes, no truncation
    luminance = ((w[:, 0, :3] / 20) * torch.tensor([0.299, 0.587, 0.114])).sum(-1)
    assert (grey.generate(w)[:, 4, 4, 0].float() - ((luminance + 1) * 127.5).clamp(0, 255)).abs().max() <= 1


def test_a_stylegan_encoder_may_give_one_w_or_all() -> None:
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)

    def mean_colour(x: Tensor) -> Tensor:
        return x.mean((2, 3))

    with pytest.raises(ConfigError, match="no encoder; sample its latents with variant='code'"):
        StyleGANPair(mapping, synthesis, (8, 8, 3)).encode(images)
    with pytest.raises(ConfigError, match="say num_styles="):
        StyleGANPair(mapping, synthesis, (8, 8, 3), encoder=mean_colour).encode(images)
    w = StyleGANPair(mapping, synthesis, (8, 8, 3), encoder=mean_colour, num_styles=4).encode(images)
    expected = images.float().mean((1, 2)) / 127.5 - 1
    torch.testing.assert_close(w, expected[:, None].expand(-1, 4, -1))
    every = StyleGANPair(mapping, synthesis, (8, 8, 3), encoder=lambda x: x.flatten(2)).encode(images)
    assert every.shape == (2, 3, 64)
