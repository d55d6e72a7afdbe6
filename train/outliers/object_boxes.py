"""Boxes around what a name names, by a zero-shot detector of transformers (GroundingDINO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .transformers_models import published_model

AT_ONCE = 16  # images; a detector enlarges them to some 800 pixels


class Detector:
    """Asked for an image's own class by its name.

    Args:
        model: folder or hub id of a transformers model for zero-shot object detection, with its processor.
        threshold: least confidence of a box, in (0, 1).

    Raises:
        ConfigError: no such model can be loaded.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, model: str, class_names: Sequence[str], threshold: float, device: torch.device) -> None:
        self._processor, self._model = published_model(
            model, "AutoModelForZeroShotObjectDetection", "detector", "zero-shot detector", "GroundingDINO", device
        )
        self._device, self._threshold = device, threshold
        self._names = [name.replace("_", " ").lower() for name in class_names]

    @torch.no_grad()
    def boxes(self, images: Tensor, labels: Tensor) -> list[list[tuple[float, float, float, float]]]:
        """(left, top, right, bottom) in pixels of every box of each image; uint8 (N, H, W, 1 or 3), classes (N,)."""
        found: list[list[tuple[float, float, float, float]]] = []
        for part, classes in zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True):
            found += self._boxes(part, [self._names[c] for c in classes.tolist()])
        return found

    def _boxes(self, images: Tensor, names: list[str]) -> list[list[tuple[float, float, float, float]]]:
        rgb = list(images.expand(-1, -1, -1, 3).cpu().numpy())
        given = self._processor(images=rgb, text=[f"{name}." for name in names], padding=True, return_tensors="pt")
        answer = self._model(**given.to(self._device))
        sizes = [tuple(images.shape[1:3])] * len(rgb)
        each = self._processor.post_process_grounded_object_detection(
            answer, given.input_ids, threshold=self._threshold, text_threshold=self._threshold, target_sizes=sizes
        )
        return [[tuple(box) for box in one["boxes"].tolist()] for one in each]
