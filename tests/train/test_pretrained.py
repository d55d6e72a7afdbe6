"""Published weights: what is read from where, and that a hub which does not answer costs no wait."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import guard
from guard.data.forms import hub
from guard.errors import ConfigError, MissingDataError
from train.backbones import create_backbone, pretrained_normalisation
from train.pretrained import checkpoint, impatient

NAME = "test_resnet"  # timm's smallest


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=5)


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder")
    timm.models.save_for_hf(model, path, model_config={"mean": [0.1, 0.2, 0.3]}, safe_serialization=True)
    return path


def test_the_features_of_a_file_are_those_of_the_model(model: Any, file: Path) -> None:
    backbone = create_backbone(NAME, image_size=64, pretrained=file).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours = backbone.pool(backbone.forward_map(images))
        theirs = model.eval().forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(ours, theirs)


def test_a_folder_says_which_network_it_is_of(folder: Path) -> None:
    found = checkpoint(folder)
    assert found.architecture == NAME
    backbone = create_backbone(NAME, image_size=64, pretrained=str(folder))
    told = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["mean"]
    normalisation = pretrained_normalisation(backbone, 3)
    assert normalisation is not None
    assert list(normalisation.mean) == told


def test_grey_images_get_the_sum_of_the_first_weights(model: Any, file: Path) -> None:
    grey = create_backbone(NAME, image_size=64, in_chans=1, pretrained=file).state_dict()
    name = next(key for key, value in grey.items() if value.ndim == 4)
    assert torch.allclose(grey[name], model.state_dict()[name.removeprefix("model.")].sum(1, keepdim=True))


def test_weights_of_another_network_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks .* of .* weights|could not be loaded"):
        create_backbone("test_efficientnet", image_size=64, pretrained=file)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match="pickles are not read"):
        checkpoint(tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(ConfigError, match="names no timm architecture"):
        checkpoint(tmp_path)
    with pytest.raises(MissingDataError, match="neither a file nor a folder"):
        checkpoint(tmp_path / "none" / "at" / "all.safetensors")


def test_small_nets_have_no_published_weights(file: Path) -> None:
    with pytest.raises(ConfigError, match="no published weights"):
        create_backbone("wrn16_2", pretrained=file)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every connection fails at once; which were tried."""
    tried: list[Any] = []

    def refused(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network")

    def unknown(host: Any, *_: Any, **__: Any) -> Any:
        tried.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return tried


@pytest.mark.parametrize(
    ("name", "given"), [("resnet18", True), ("auto", "nobody/no-such-model"), ("resnet18", "nobody/no-such-model")]
)
def test_without_a_network_nothing_waits(name: str, given: Any, no_network: list[Any], digits_folder: Any) -> None:
    with pytest.raises((ConfigError, MissingDataError), match="give pretrained= a local file"):
        guard.train(digits_folder, backbone=name, pretrained=given, device="cpu", epochs=1)
    assert len(no_network) <= 3  # the clients try every file six times, with pauses between, for a minute


@pytest.fixture
def digits_folder(four: Any) -> Any:
    return four[0][:160], four[1][:160]


def test_offline_mode_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setattr("train.pretrained.hub_answers", lambda: False)
    before = constants.HF_HUB_OFFLINE
    with impatient():
        assert constants.HF_HUB_OFFLINE
    assert before == constants.HF_HUB_OFFLINE
