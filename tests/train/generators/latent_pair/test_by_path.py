"""A pair of one's own by the name of its factory and the path of its weights, as the command line names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import guard
from guard import cli
from guard.errors import ConfigError
from tests.conftest import Arrays
from train.outliers.store.store import open_store

FACTORY = """
import torch
from torch import nn
from safetensors.torch import load_file
from train.generators.latent_pair import StyleGANPair


class Mapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes = nn.Embedding(4, 8)

    def forward(self, z, c, truncation_psi):
        return (c @ self.classes.weight + truncation_psi * z)[:, None].repeat(1, 2, 1)


class Synthesis(nn.Module):
    def __init__(self):
        super().__init__()
        self.colours = nn.Linear(8, 3 * 16)

    def forward(self, w):
        return self.colours(w[:, 0]).tanh().view(-1, 3, 4, 4)


def stylegan(context, options):
    p = context.data.preprocess
    mapping, synthesis = Mapping(), Synthesis()
    nn.ModuleList([mapping, synthesis]).load_state_dict(load_file(options.path))
    return StyleGANPair(mapping, synthesis, (p.height, p.width, p.channels), z_dim=8, num_classes=4)
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two files of weights, in the working directory beside the module of the factory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_generators.py").write_text(FACTORY)
    for seed in range(2):
        torch.manual_seed(seed)
        state = {
            "0.classes.weight": 3 * torch.randn(4, 8),
            "1.colours.weight": torch.randn(48, 8),
            "1.colours.bias": torch.randn(48),
        }
        save_file(state, tmp_path / f"g{seed}.safetensors")
    yield ["g0.safetensors", "g1.safetensors"]
    import sys

    sys.modules.pop("my_generators", None)


def pair(path: str) -> dict[str, Any]:
    return {"model": "my_generators:stylegan", "path": path}


def test_a_store_knows_which_weights_made_it(weights: list[str], four: Arrays) -> None:
    options: dict[str, Any] = {"method": "dmr", "variant": "code", "device": "cpu", "gallery": False}
    first = guard.synth(four, pair=pair(weights[0]), count=20, out="a", **options)
    other = guard.synth(four, pair=pair(weights[1]), count=20, out="b", **options)
    assert first.card.model is not None
    assert len(first.card.model) == 16
    assert other.card.model not in (None, first.card.model)
    (Path("g0.safetensors")).write_bytes(Path("g1.safetensors").read_bytes())  # the same path, another network
    with pytest.raises(ConfigError, match=f"model: '{first.card.model}' then, '{other.card.model}' now"):
        guard.synth(four, pair=pair(weights[0]), count=40, out="a", **options)


def test_the_command_line_names_factory_and_path(weights: list[str]) -> None:
    words = ["synth", "digits:0-3", "--method", "dmr", "--count", "12", "-o", "store", "--image-size", "16"]
    words += ["--set", "pair.model=my_generators:stylegan", "--set", f"pair.path={weights[0]}"]
    ran = CliRunner().invoke(cli.app, [*words, "--set", "variant=code", "--no-gallery", "--device", "cpu"])
    assert ran.exit_code == 0, ran.output
    card = open_store("store").card
    assert (card.options["pair"]["path"], card.count) == (weights[0], 12)
    assert card.model is not None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "no_such_module:f"}, "No module named 'no_such_module'; accepted: style"),
        ({"model": "my_generators:nothing"}, "module 'my_generators' has no 'nothing' to call"),
        ({"model": "my_generators:stylegan", "path": "missing.pt"}, "no such file or folder"),
        ({"path": "g0.safetensors"}, "is not read with model='style'"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    given: dict[str, Any], sentence: str, weights: list[str], four: Arrays
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        guard.synth(four, method="dmr", pair=given, count=8, out="s", variant="code", device="cpu", gallery=False)
    assert len(str(caught.value)) < 300
