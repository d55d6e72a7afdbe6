"""KIRBY: LayerCAM against autograd by hand, key regions of an obvious object, inpainting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.data import load
from guard.errors import ConfigError, ModelError
from guard.graph.module import GuardModule
from guard.graph.outputs import Backbone, Classifier, HookedClassifier
from guard.heads import create_head
from guard.manifest import Normalisation
from guard.scores import create_score
from train.classifiers.fresh import build_classifier
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.images.kirby import KIRBY, as_grid, inpaint, key_regions, layer_cam, unit_range

NORMALISATION = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)


class Brightness(Backbone):
    """A map of two channels, 4 pixels wide each: how far above and how far below grey."""

    num_features = 2

    def forward_map(self, x: Tensor) -> Tensor:
        grey = F.avg_pool2d(x.mean(1, keepdim=True), 4)
        return torch.cat([grey, -grey], 1).relu()

    def pool(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean((2, 3))


@pytest.fixture
def module() -> GuardModule:
    """Class 0 is "bright somewhere", class 1 "dark somewhere"."""
    head = create_head("linear", 2, 2)
    with torch.no_grad():
        head.state_dict()["weight" if "weight" in head.state_dict() else "linear.weight"].copy_(torch.eye(2))
    return GuardModule(Classifier(Brightness(), head), create_score("energy"), NORMALISATION)


@pytest.fixture
def images() -> Tensor:
    """16 x 16: grey with one bright 8 x 8 square, at another place in each."""
    x = torch.full((4, 16, 16, 3), 100, dtype=torch.uint8)
    for i, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (4, 4)]):
        x[i, top : top + 8, left : left + 8] = 250
    return x


def prepared(module: GuardModule, images: Tensor, folder: Path, count: int, **options: float) -> KIRBY:
    data = load((images.numpy(), np.arange(len(images)) % 2))
    made = KIRBY(count, 2, **options)
    made.prepare(PrepareContext(module, data, folder, 0, torch.device("cpu")))
    return made


def test_layer_cam_is_what_autograd_gives_through_the_whole_network() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 5, in_chans=3, image_size=16)
    module = GuardModule(classifier, create_score("energy"), NORMALISATION).eval()
    images = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    outputs = classifier(module.normalise(images))
    assert outputs.feature_map is not None
    outputs.feature_map.retain_grad()
    for n in range(3):
        outputs.logits[n, outputs.logits[n].argmax()].backward(retain_graph=True)
    gradient, feature_map = outputs.feature_map.grad.numpy(), outputs.feature_map.detach().numpy()  # type: ignore[union-attr]
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


def test_an_obvious_object_is_found_and_painted_over(module: GuardModule, images: Tensor, tmp_path: Path) -> None:
    masks = key_regions(module, images, 0.3)
    bright = images[..., 0] == 250
    assert (masks & bright).sum() > 0.9 * bright.sum()
    assert not masks[0, 12:, 12:].any()
    kirby = prepared(module, images, tmp_path, 4)
    made = kirby.sample(IDBatch(images, torch.tensor([0, 1, 0, 1])), torch.Generator().manual_seed(0))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    outside = ~masks[order]
    assert made.data[outside].equal(images[order][outside])  # only the key region changes
    assert (made.data == 250).all(-1).sum() < 0.1 * bright.sum()
    assert made.parents.tolist() == [[int(i) % 2] for i in order]  # type: ignore[union-attr]
    again = kirby.sample(IDBatch(images, torch.tensor([0, 1, 0, 1])), torch.Generator().manual_seed(0))
    assert made.data.equal(again.data)


def test_images_without_a_key_region_are_left_out(module: GuardModule, images: Tensor, tmp_path: Path) -> None:
    flat = torch.full((5, 16, 16, 3), 90, dtype=torch.uint8)
    kirby = prepared(module, images, tmp_path, 6)
    batch = IDBatch(torch.cat([flat, images[:2]]), torch.arange(7) % 2)
    made = kirby.sample(batch, torch.Generator().manual_seed(0))
    assert made.data.shape == (6, 16, 16, 3)
    assert made.parents is not None
    assert (made.data != 90).any(-1).flatten(1).any(1).all()  # none is one of the flat images, unchanged
    with pytest.raises(ConfigError, match=r"none of 5 images has a key region at cam_threshold=0.3; lower it"):
        kirby.sample(IDBatch(flat, torch.zeros(5, dtype=torch.int64)), torch.Generator())


def test_inpainting_takes_colours_from_around(images: Tensor) -> None:
    for channels in (1, 3):
        image = images[3, :, :, :channels].numpy()
        mask = np.zeros((16, 16), bool)
        mask[3:13, 3:13] = True
        made = inpaint(image, mask, 5.0)
        assert made.shape == image.shape
        assert np.abs(made.astype(int) - 100).max() <= 2


def test_grey_images_and_augmentation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 2, in_chans=1, image_size=8)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,), std=(0.25,)))
    images = torch.randint(0, 256, (10, 8, 8, 1), dtype=torch.uint8)
    data = load((images.numpy(), np.arange(10) % 2), channels=1)
    made = {}
    for augment in (False, True):
        kirby = KIRBY(10, 2, augment=augment)
        kirby.prepare(PrepareContext(module, data, tmp_path, 0, torch.device("cpu")))
        made[augment] = kirby.sample(IDBatch(images, torch.arange(10) % 2), torch.Generator().manual_seed(0)).data
    assert made[True].shape == made[False].shape == (10, 8, 8, 1)
    assert not made[True].equal(made[False])


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
    with pytest.raises(ConfigError, match=r"no classifier yet; call prepare\(context\) first"):
        KIRBY(4, 2).sample(IDBatch(images, torch.zeros(4, dtype=torch.int64)), torch.Generator())
