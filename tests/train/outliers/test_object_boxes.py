"""Zero-shot detection: the model's own boxes for each image's own class, in pixels; and what is blurred with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.data import load
from guard.errors import ConfigError
from tests.tiny_transformers import SIDE, save_tiny_detector
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.images.blurred_object import BlurredObject
from train.outliers.object_boxes import Detector
from train.runs.synth import untrained

CPU = torch.device("cpu")
NAMES = ("cat", "Tree_frog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_detector(tmp_path_factory.mktemp("detector") / "dino")


def images(channels: int = 3, count: int = 5, side: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8))


def by_hand(folder: Path, image: np.ndarray, text: str, threshold: float) -> list[list[float]]:
    """One image through transformers' own classes."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    processor: Any = GroundingDinoProcessor.from_pretrained(folder)
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    given = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        answer = model(**given)
    keep = answer.logits[0].sigmoid().amax(-1) > threshold
    x, y, w, h = (answer.pred_boxes[0, keep] * torch.tensor([image.shape[1], image.shape[0]] * 2)).T
    boxes: list[list[float]] = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).tolist()
    return boxes


def test_boxes_are_those_of_each_image_by_itself(folder: Path) -> None:
    given, labels = images(), torch.tensor([0, 1, 1, 0, 1])
    found = Detector(str(folder), NAMES, 0.5, CPU).boxes(given, labels)
    assert len(found) == 5
    assert 0 < sum(map(len, found)) < 5 * 8
    for image, label, boxes in zip(given.numpy(), labels, found, strict=True):
        expected = by_hand(folder, image, ("cat.", "tree frog.")[label], 0.5)
        np.testing.assert_allclose(np.array(boxes).reshape(-1, 4), np.array(expected).reshape(-1, 4), atol=1e-2)


def test_the_class_is_what_is_asked_for(folder: Path) -> None:
    detector = Detector(str(folder), NAMES, 0.01, CPU)
    one = images(count=1)
    assert detector.boxes(one, torch.tensor([0])) != detector.boxes(one, torch.tensor([1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_it_finds_is_blurred_without_a_classifier_s_map(folder: Path, tmp_path: Path, channels: int) -> None:
    given, labels = images(channels, 6, 24), torch.arange(6) % 2
    data = load((given.numpy(), labels.numpy()), channels=channels)
    synthesiser = BlurredObject(6, 2, detector=str(folder), box_threshold=0.2, max_area=0.4)
    module = untrained(data, CPU)
    synthesiser.prepare(PrepareContext(module, data, tmp_path, 0, CPU))
    made = synthesiser.sample(IDBatch(given, labels), torch.Generator().manual_seed(0))
    boxes = [synthesiser._small(each, given) for each in synthesiser._boxes(module, given, labels)]
    assert made.parents is not None
    for image, parent in zip(made.data, made.parents.flatten().tolist(), strict=True):
        near = (given.int() - image.int()).abs().float().mean((1, 2, 3)).argmin().item()
        assert parent == near % 2
        inside = torch.zeros(24, 24, dtype=torch.bool)
        for box in boxes[int(near)]:
            assert 0 < box.area <= 0.4 * 24 * 24
            inside[box.top : box.bottom, box.left : box.right] = True
        changed = (image != given[int(near)]).any(-1)
        assert changed.any()
        assert not (changed & ~inside).any()


def test_a_store_then_needs_no_classifier(folder: Path, tmp_path: Path) -> None:
    data = images(3, 12, 16).numpy(), np.arange(12) % 2
    options = {"method": "blurred_object", "count": 8, "device": "cpu", "gallery": False}
    with pytest.raises(ConfigError, match="'blurred_object' uses a trained classifier"):
        guard.synth(data, out=tmp_path / "map", **options)
    store = guard.synth(
        data, out=tmp_path / "boxes", detector=str(folder), box_threshold=0.05, max_area=1.0, calibration=0, **options
    )
    assert (len(store), store.card.classifier) == (8, None)


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no zero-shot detector can be loaded from detector='.*nothing'"):
        Detector(str(tmp_path / "nothing"), NAMES, 0.3, CPU)
