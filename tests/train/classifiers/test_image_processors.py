"""Hugging Face image processors against what becomes of them, pixel by pixel."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from guard.errors import ConfigError, ModelError
from guard.graph.module import GuardModule
from guard.manifest import Normalisation, Preprocess
from guard.preprocess import to_input
from train.classifiers.image_processors import input_of

SIZES = ((97, 61), (61, 97), (40, 40), (33, 70), (19, 23), (131, 58), (32, 32))

Case = tuple[str, dict[str, Any]]

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25]}
CASES: dict[str, Case] = {
    "stretch": ("ViT", {"size": {"height": 32, "width": 32}, **HALF}),
    "stretch to a rectangle": ("ViT", {"size": {"height": 24, "width": 40}}),
    "bicubic": ("Beit", {"size": {"height": 32, "width": 32}}),
    "lanczos": ("ViT", {"size": {"height": 32, "width": 32}, "resample": 1}),
    "nearest": ("ViT", {"size": {"height": 32, "width": 32}, "resample": 0}),
    "stretch, then crop": ("DeiT", {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}),
    "odd margin": ("DeiT", {"size": {"height": 39, "width": 39}, "crop_size": {"height": 32, "width": 32}}),
    "shortest edge": ("CLIP", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    "shortest edge, then crop": ("MobileNetV2", {"size": {"shortest_edge": 37}, "crop_size": 32}),
    "crop_pct below 384": ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.875, **HALF}),
    "crop_pct from 384": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "crop_pct of PoolFormer": ("PoolFormer", {"size": {"shortest_edge": 32}, "crop_size": 32, "crop_pct": 0.9}),
    "256 / 224 of LeViT": ("Levit", {"size": {"shortest_edge": 28}, "crop_size": 28}),
    "no rescale": ("ViT", {"size": {"height": 32, "width": 32}, "do_rescale": False, "image_mean": [127.5] * 3}),
    "no normalisation": ("ViT", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
    "neither": ("ViT", {"size": {"height": 32, "width": 32}, "do_normalize": False, "do_rescale": False}),
    "another factor": ("ViT", {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5, **HALF}),
    "offset and top": (
        "EfficientNet",
        {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5, "rescale_offset": True, **HALF},
    ),
    "oblong cut of a square": (
        "DeiT",
        {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 27}},
    ),
    "oblong cut": ("CLIP", {"size": {"shortest_edge": 36}, "crop_size": {"height": 30, "width": 27}}),
    "blue first": ("MobileViT", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "rgb": ("CLIP", {"size": {"shortest_edge": 32}, "crop_size": 32, "do_convert_rgb": True}),
}


def processor(case: Case, backend: str = "Pil") -> Any:
    return getattr(transformers, f"{case[0]}ImageProcessor{backend}")(**case[1])


def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth colours with noise on them."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (size[1] // 3 + 1, size[0] // 3 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))


def ours(image: Image.Image, preprocess: Preprocess, normalisation: Normalisation) -> np.ndarray:
    """(channels, H, W) as the graph computes it."""
    graph = GuardModule(nn.Module(), None, normalisation)  # type: ignore[arg-type]  # only normalises
    return graph.normalise(torch.from_numpy(to_input(image, preprocess)[None]))[0].numpy()


@pytest.mark.parametrize("name", CASES)
def test_the_pixels_are_those_of_the_processor(name: str) -> None:
    """The same pixels, normalised in float32."""
    theirs = processor(CASES[name])
    preprocess, normalisation = input_of(theirs, 3)
    for index, size in enumerate(SIZES):
        image = photo(size, index)
        expected = theirs(image, return_tensors="np")["pixel_values"][0]
        got = ours(image, preprocess, normalisation)
        levels = np.abs(got - expected) * 255 * np.array(normalisation.std).reshape(-1, 1, 1)
        assert got.shape == expected.shape
        assert levels.max() < 0.001, (size, levels.max())


@pytest.mark.parametrize("name", [name for name in CASES if name != "nearest"])
def test_those_of_the_torchvision_backend_differ_by_its_resize_only(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ood_guard")
    theirs = processor(CASES[name], "")
    preprocess, normalisation = input_of(theirs, 3)
    assert "the guard resizes with Pillow" in caplog.text
    caplog.clear()
    assert (preprocess, normalisation) == input_of(processor(CASES[name]), 3)
    assert caplog.text == ""
    for index, size in enumerate(SIZES):
        image = photo(size, index)
        expected = np.asarray(theirs(image, return_tensors="np")["pixel_values"][0])
        got = ours(image, preprocess, normalisation)
        levels = np.abs(got - expected) * 255 * np.array(normalisation.std).reshape(-1, 1, 1)
        assert levels.mean() < 0.5
        assert levels.max() <= 8


def test_grey() -> None:
    theirs = transformers.ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.1307], image_std=[0.3])
    preprocess, normalisation = input_of(theirs, 1)
    image = photo((45, 31)).convert("L")
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours(image, preprocess, normalisation), expected, atol=1e-5)
    with pytest.raises(ModelError, match=r"image_mean=\(0\.1307,\), the model's input has 3 channels"):
        input_of(theirs, 3)


def test_transparent_pixels_lie_over_white_as_theirs() -> None:
    theirs = processor(CASES["rgb"])
    preprocess, normalisation = input_of(theirs, 3)
    image = photo((50, 40)).convert("RGBA")
    image.putalpha(photo((50, 40), 1).convert("L"))
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    levels = (
        np.abs(ours(image, preprocess, normalisation) - expected) * 255 * np.array(normalisation.std)[:, None, None]
    )
    assert levels.max() <= 2


REFUSED: dict[str, tuple[Case, str]] = {
    "padding": (("ViT", {"do_pad": True, "pad_size": {"height": 300, "width": 300}}), "do_pad=True"),
    "quantised colours": (("ImageGPT", {}), "do_color_quantize=True"),
    "another filter": (("ViT", {"resample": 4}), "resample='box', accepted are nearest, bilinear, bicubic and lanczos"),
    "images of all sizes": (("CLIP", {"do_center_crop": False}), r"do_center_crop=False, with size=.*another shape"),
    "no resize": (("ViT", {"do_resize": False}), r"do_resize=False, so the model's input is as large as each image"),
    "black borders": (("CLIP", {"crop_size": 256}), r"crop_size=.*256.* is larger than the resized image"),
    "a longest edge": (("CLIP", {"size": {"shortest_edge": 224, "longest_edge": 300}}), r"size=\{.*longest_edge"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_named(name: str) -> None:
    case, message = REFUSED[name]
    with pytest.raises(ModelError, match=f"the image processor {case[0]}ImageProcessorPil has .*{message}"):
        input_of(processor(case), 3)


def test_a_processor_that_does_more_than_its_fields_say_is_found_out() -> None:
    class Mirrored(transformers.ViTImageProcessorPil):
        def process_image(self, image: Any, **options: Any) -> Any:
            return super().process_image(image, **options)[:, :, ::-1]

    with pytest.raises(
        ModelError, match=r"Mirrored does more than its fields say: its pixels differ by \d\d\.\d\d grey"
    ):
        input_of(Mirrored(size={"height": 32, "width": 32}), 3)


def test_images_that_are_never_resized_must_have_the_size_of_the_input() -> None:
    theirs = processor(("ViT", {"do_resize": False}))
    preprocess, normalisation = input_of(theirs, 3, 28)
    image = photo((28, 28))
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours(image, preprocess, normalisation), expected, atol=1e-5)


def test_what_is_no_image_processor() -> None:
    with pytest.raises(ConfigError, match=r"processor must be a Hugging Face image processor .*, got function"):
        input_of(photo, 3)
