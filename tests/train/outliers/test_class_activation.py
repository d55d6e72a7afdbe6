"""LayerCAM against autograd by hand, and key regions of convolutional and of token networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.errors import ModelError
from guard.graph.module import GuardModule
from guard.graph.outputs import HookedClassifier
from guard.scores import create_score
from tests.train.outliers.bright_squares import NORMALISATION, Brightness, bright_or_dark, bright_squares
from train.classifiers.fresh import build_classifier
from train.outliers.class_activation import as_grid, key_regions, layer_cam, unit_range


@pytest.fixture
def module() -> GuardModule:
    return bright_or_dark()


@pytest.fixture
def images() -> Tensor:
    return bright_squares()


def test_layer_cam_is_what_autograd_gives_for_the_last_blocks_output() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 5, in_chans=3, image_size=16)
    module = GuardModule(classifier, create_score("energy"), NORMALISATION).eval()
    images = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = classifier.backbone.blocks[-1].register_forward_hook(keep)  # type: ignore[union-attr, operator, index]
    outputs = classifier(module.normalise(images))
    handle.remove()
    for n in range(3):
        outputs.logits[n, outputs.logits[n].argmax()].backward(retain_graph=True)
    block = seen[0]
    gradient, feature_map = block.grad.numpy(), block.detach().numpy()  # type: ignore[union-attr]
    assert feature_map.min() < 0  # before batch norm and ReLU, as KIRBY's code
    cam = np.maximum((np.maximum(gradient, 0) * feature_map).sum(1), 0)
    cam = (cam - cam.min((1, 2), keepdims=True)) / np.ptp(cam, axis=(1, 2), keepdims=True)
    large = F.interpolate(torch.from_numpy(cam)[:, None], (16, 16), mode="bilinear")[:, 0]
    clear = (large - 0.3).abs() > 1e-4
    with torch.no_grad():  # as where a store is filled
        ours = key_regions(module, images, 0.3)
    assert 0.05 < ours.float().mean() < 0.95
    assert ours[clear].equal((large >= 0.3)[clear])
    assert all(p.grad is not None for p in classifier.head.parameters())  # of this test's own backward passes


def test_a_cam_has_no_negative_gradients_and_spans_0_to_1() -> None:
    a, g = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    cam = layer_cam(a, g)
    by_hand = np.maximum((np.maximum(g.numpy(), 0) * a.numpy()).sum(1), 0)
    np.testing.assert_allclose(cam.numpy(), by_hand, rtol=1e-5, atol=1e-6)
    scaled = unit_range(torch.cat([cam, torch.full((1, 4, 4), 3.0)]))
    assert scaled[:2].amax((1, 2)).tolist() == [1, 1]
    assert scaled[:2].amin((1, 2)).tolist() == [0, 0]
    assert not scaled[2].any()  # a flat one has no key region


def test_tokens_are_put_back_on_their_grid() -> None:
    tokens = torch.arange(2 * 10 * 3.0).view(2, 10, 3)  # a class token and 3 x 3 patches
    grid = as_grid(tokens)
    assert grid.shape == (2, 3, 3, 3)
    assert grid[1, :, 2, 1].equal(tokens[1, 1 + 2 * 3 + 1])
    assert as_grid(grid) is grid


class Tokens(Brightness):
    """A class token (the mean) and the map's places, of which one or the other is pooled."""

    reads_class_token = False

    def forward_map(self, x: Tensor) -> Tensor:
        patches = super().forward_map(x).flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)

    def pool(self, feature_map: Tensor) -> Tensor:
        return feature_map[:, 0] if self.reads_class_token else feature_map[:, 1:].mean(1)


def test_a_transformer_must_read_its_patches(module: GuardModule, images: Tensor) -> None:
    expected = key_regions(module, images, 0.3)
    backbone = Tokens()
    module.classifier.backbone = backbone
    assert key_regions(module, images, 0.3).equal(expected)
    backbone.reads_class_token = True
    with pytest.raises(ModelError, match="come from its class token alone"):
        key_regions(module, images, 0.3)


def test_what_shows_no_map_is_refused(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 2))
    module = GuardModule(HookedClassifier(net, "1", "input"), create_score("energy"), NORMALISATION)
    with pytest.raises(ModelError, match="which a HookedClassifier does not show"):
        key_regions(module, images, 0.3)
