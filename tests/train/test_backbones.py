"""Backbones by name: shapes, channels, sizes, and what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

import guard
from guard.errors import ConfigError, UnknownNameError
from train.backbones import (
    SMALL,
    automatic_backbone,
    automatic_teacher,
    check_backbone,
    create_backbone,
    pretrained_normalisation,
)
from train.engine.stage_run import StageRun


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("name", [*SMALL, "resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_features_are_pooled_from_the_map(name: str, in_chans: int) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, in_chans=in_chans, image_size=32).eval()
    x = torch.randn(2, in_chans, 32, 32)
    with torch.inference_mode():
        feature_map = backbone.forward_map(x)
        features = backbone(x)
        assert features.equal(backbone.pool(feature_map))
    assert features.shape == (2, backbone.num_features)


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [
        ("wrn16_2", 691_674, 128),
        ("wrn40_2", 2_243_546, 128),
        ("wrn40_4", 8_949_210, 256),
        ("wrn28_10", 36_479_194, 640),
    ],
)
def test_wide_residual_nets_have_the_published_size(name: str, parameters: int, features: int) -> None:
    """Zagoruyko & Komodakis' nets for ten classes, less their classifier."""
    with torch.device("meta"):
        backbone = create_backbone(name)
        assert sum(p.numel() for p in backbone.parameters()) == parameters - (10 * features + 10)
        assert backbone.forward_map(torch.randn(1, 3, 32, 32)).shape == (1, features, 8, 8)


@pytest.mark.parametrize("name", ["wrn17_2", "wrn4_1", "wrn16_0", "wrn16-2", "wrn016_2", "wrn16_2_", "WRN16_2"])
def test_other_depths_and_spellings_are_unknown(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"depth D = 6 n \+ 4 \(10, 16"):
        check_backbone(name)


def test_small_stems_keep_the_resolution() -> None:
    """A 3 x 3 stem without pooling: CIFAR's ResNet-18 ends with 4 x 4, ImageNet's with 1 x 1."""
    x = torch.randn(1, 3, 32, 32)
    assert create_backbone("resnet18_small").eval().forward_map(x).shape == (1, 512, 4, 4)
    assert create_backbone("resnet18").eval().forward_map(x).shape == (1, 512, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("resnet50", 2048), ("densenet121", 1024)])
def test_a_small_stem_is_torchvisions_network_with_a_3x3_convolution(name: str, width: int) -> None:
    """The same weights in torchvision's module, its stem exchanged, give the same features."""
    torch.manual_seed(0)
    ours = create_backbone(f"{name}_small").eval()
    theirs = getattr(torchvision.models, name)(num_classes=1).eval()
    stem = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    if name == "resnet50":
        theirs.conv1, theirs.maxpool = stem, torch.nn.Identity()
        theirs.fc = torch.nn.Identity()
    else:
        theirs.features.conv0, theirs.features.pool0 = stem, torch.nn.Identity()
        theirs.classifier = torch.nn.Identity()
    state = ours.model.state_dict()  # type: ignore[union-attr]
    assert len(state) == len(theirs.state_dict())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert ours.forward_map(x).shape == (2, width, 4, 4)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_a_vision_transformer_takes_the_image_size() -> None:
    backbone = create_backbone("vit_tiny_patch16_224", image_size=48)
    assert backbone.forward_map(torch.randn(1, 3, 48, 48)).shape == (1, 1 + 9, 192)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "efficientvim_m1", "fasternet_t0"])
def test_a_network_that_cuts_patches_at_any_size_is_not_told_the_size(name: str) -> None:
    """They have a `patch_embed`, as vision transformers do, but no img_size."""
    backbone = create_backbone(name, image_size=64).eval()
    with torch.inference_mode():
        assert backbone(torch.randn(2, 3, 64, 64)).shape == (2, backbone.num_features)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("wrn16_2", dropout=0.5)
    x = torch.randn(4, 3, 16, 16)
    backbone.eval()
    assert backbone(x).equal(backbone(x))
    backbone.train()
    assert not backbone(x).equal(backbone(x))


def test_unknown_names_and_weights_that_are_not_there() -> None:
    with pytest.raises(UnknownNameError, match=r"backbone 'wrn17_2'; did you mean 'wrn.*Any timm model name"):
        create_backbone("wrn17_2")
    with pytest.raises(ConfigError, match="'wrn40_2' has no published weights"):
        create_backbone("wrn40_2", pretrained=True)


def test_published_normalisation_is_timms_or_nothing() -> None:
    assert pretrained_normalisation(create_backbone("wrn16_2"), 3) is None
    found = pretrained_normalisation(create_backbone("resnet18"), 3)
    assert found is not None
    assert found.mean == (0.485, 0.456, 0.406)
    grey = pretrained_normalisation(create_backbone("resnet18"), 1)
    assert grey is not None
    assert grey.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))


@pytest.mark.parametrize(
    ("side", "student", "teacher"),
    [(8, "wrn16_2", "wrn40_2"), (64, "wrn16_2", "wrn40_2"), (65, "resnet18", "resnet34")],
)
def test_the_automatic_backbone_goes_by_the_side(side: int, student: str, teacher: str) -> None:
    assert (automatic_backbone(side), automatic_teacher(side)) == (student, teacher)


def test_a_backbone_that_takes_no_images_of_this_size_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vision transformer of images smaller than a patch."""
    monkeypatch.setattr(StageRun, "epoch", lambda *_: pytest.fail("trained"))
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match=r"backbone='vit_tiny_patch16_224' takes no images of 8 x 8 pixels \("):
        guard.train((images, np.arange(120) % 2), backbone="vit_tiny_patch16_224", epochs=1, device="cpu")
