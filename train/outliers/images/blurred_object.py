"""Images whose object is blurred, so that its surroundings remain. Source: FodFoM, Chen et al., ACM MM 2024,
its second kind of outlier.

    box = where the object is;   x~ = x with a box blur inside the box, of 50/224 of the image's size

Published: a zero-shot detector (GroundingDINO) is asked for the class's name, and boxes above half the image are left
alone, for little would remain; an image without a smaller one is no outlier. That is ``detector=``, a model of yours.
By default the box is around the class activation map of a plain classifier, where that is at least half its maximum:
the object as far as the classifier needs it. No weights from elsewhere are needed then, but a trained classifier.

Blurring runs on the host, image by image: these outliers are made for a store and not in training steps.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guard.errors import ConfigError, MissingExtraError
from guard.graph.module import GuardModule
from guard.record import Record, option

from ...cache.held import Held
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from ..class_activation import AT_ONCE, check_places, key_regions
from ..object_boxes import Detector

BLUR = 50 / 224  # the kernel's side, in sides of the image
LEAST = 2  # pixels per side of a box that shows something to blur


class Box(NamedTuple):
    """Pixels [top, bottom) x [left, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


class BlurredObjectOptions(Record):
    """Where the object is, and how it is blurred."""

    detector: str | None = option(
        None,
        "Folder or hub id of a zero-shot detector of transformers (GroundingDINO); default the box around the class "
        "activation map.",
        common=True,
    )
    box_threshold: float = option(
        0.3, "Least confidence of the detector, 0 to 1.", gt=0, lt=1, unread_if={"detector": None}
    )
    cam_box: float = option(
        0.5,
        "Share of its maximum from which on the activation counts as the object, 0 to 1.",
        gt=0,
        lt=1,
        read_if={"detector": None},
    )
    max_area: float = option(0.5, "Share of the image above which a box is left alone, 0 to 1.", gt=0, le=1)
    blur: float = option(BLUR, "Side of the blurring kernel, as a share of the image's longer side.", gt=0, le=1)


@register_synthesiser
class BlurredObject(ImageSynthesiser):
    """In-distribution images with their object blurred, found by a detector or by a class activation map (FodFoM)."""

    name: ClassVar[str] = "blurred_object"
    revision: ClassVar[int] = 2  # 1: class activations after the last norm and ReLU
    source: ClassVar[str] = "FodFoM, Chen et al., ACM MM 2024"
    prepared: ClassVar[bool] = True  # nothing is trained, but detecting and blurring are too slow for training steps
    Options: ClassVar = BlurredObjectOptions

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._module: Held[GuardModule] = Held(
            "synthesiser 'blurred_object' has no classifier yet; call prepare(context) first"
        )
        self._detector: Held[Detector] = Held("synthesiser 'blurred_object' was told of no detector")

    @classmethod
    def needs_classifier(cls, options: BlurredObjectOptions) -> bool:
        return options.detector is None

    def check(self, context: PrepareContext) -> None:
        if self.needs_classifier(self.options):
            check_places(context)

    def prepare(self, context: PrepareContext) -> None:
        self._module.put(context.module)
        o: BlurredObjectOptions = self.options
        if o.detector is not None:
            self._detector.put(Detector(o.detector, context.data.class_names, o.box_threshold, context.device))

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """At most `count`, for each image is taken once. Waits for the device: for stores."""
        module = self._module.get()
        device = batch.images.device
        order = torch.randperm(len(batch.images), generator=generator, device=device)
        images, labels = batch.images[order], batch.labels[order]
        boxes = [self._small(found, images) for found in self._boxes(module, images, labels)]
        usable = [i for i, found in enumerate(boxes) if found]
        if not usable:
            raise ConfigError(
                f"in none of {len(images)} images an object of at most {self.options.max_area:g} of the image was "
                "found; raise max_area, lower box_threshold (with detector=) or raise cam_box, or train for longer"
            )
        pick = usable[: self.count]
        pixels = images.cpu().numpy()
        made = np.stack([blurred(pixels[i], boxes[i], self.options.blur) for i in pick])
        return Outliers(torch.from_numpy(made).to(device), "object blurred", parents=labels[pick][:, None])

    def _boxes(self, module: GuardModule, images: Tensor, labels: Tensor) -> list[list[Box]]:
        """Of any size, for each image."""
        if self._detector:
            found = self._detector.get().boxes(images, labels)
            return [[_clipped(box, images.shape[1], images.shape[2]) for box in each] for each in found]
        masks = torch.cat([key_regions(module, part, self.options.cam_box) for part in images.split(AT_ONCE)])
        return [around(mask) for mask in masks.cpu().numpy()]

    def _small(self, boxes: list[Box], images: Tensor) -> list[Box]:
        most = self.options.max_area * images.shape[1] * images.shape[2]
        return [b for b in boxes if b.area <= most and min(b.bottom - b.top, b.right - b.left) >= LEAST]


def around(mask: np.ndarray) -> list[Box]:
    """The smallest box around a mask (H, W); none where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    return [Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)]


def blurred(image: np.ndarray, boxes: list[Box], blur: float) -> np.ndarray:
    """uint8 (H, W, 1 or 3) with the mean over a square of `blur` x its longer side in place of what is in the boxes.

    Each box is blurred by itself, mirrored at its borders: nothing of the object is carried out, nothing from around
    it in.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("OpenCV, which blurs,", "train") from error
    side = max(LEAST, round(blur * max(image.shape[:2])))
    made = image.copy()
    for box in boxes:
        inside = np.ascontiguousarray(made[box.top : box.bottom, box.left : box.right])
        made[box.top : box.bottom, box.left : box.right] = cv2.blur(inside, (side, side)).reshape(inside.shape)
    return made


def _clipped(box: tuple[float, float, float, float], height: int, width: int) -> Box:
    left, top, right, bottom = (int(x) for x in box)
    return Box(max(top, 0), max(left, 0), min(bottom, height), min(right, width))
