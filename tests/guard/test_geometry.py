"""What users say about the input's pixels, in every spelling they have, and what becomes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from guard.errors import ConfigError
from guard.geometry import Geometry, size_of
from guard.manifest import Preprocess
from guard.preprocess import to_input
from guard.requests import FitRequest, SynthRequest, TrainRequest


@pytest.mark.parametrize(
    "given", [(24, 32), [24, 32], np.array([24, 32]), "24x32", "24 x 32", "24,32", "24×32", (np.int64(24), 32.0)]
)
def test_an_oblong_input_is_height_and_width(given: Any) -> None:
    assert Geometry(image_size=given).image_size == (24, 32)


@pytest.mark.parametrize("given", [24, (24, 24), "24", "24x24", np.int64(24), [24], 24.0])
def test_a_square_input_is_a_side(given: Any) -> None:
    assert Geometry(image_size=given).image_size == 24
    assert size_of(Preprocess(height=24, width=24)) == 24


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"image_size": 0}, r"image_size: sides are 1\.\.8192 pixels, got 0"),
        ({"image_size": (3, 224, 224)}, r"height and width like \(224, 128\), is needed, got \(3, 224, 224\)"),
        ({"image_size": "large"}, r"a side in pixels, or height and width .*, got 'large'"),
        ({"image_size": 22.4}, "a side in pixels"),
        ({"image_size": True}, "a side in pixels|a number is needed"),
        ({"image_size": float("nan")}, "a side in pixels"),
        ({"resize": "stretch"}, r"resize: .*'crop', 'squash' or 'pad', got 'stretch'"),
        ({"crop_pct": 87.5}, r"crop_pct must be a share from 0\.1 to 4 \(87\.5 % is 0\.875\), got 87\.5"),
        ({"crop_pct": 0}, "crop_pct must be a share"),
        ({"crop_pct": float("nan")}, "crop_pct must be a share"),
        ({"interpolation": "cubic"}, "interpolation: .*'bicubic'.*, got 'cubic'"),
        ({"background": "grey"}, r"background must be 0\.\.255, three such numbers, 'black' or 'white' or 'drop', got"),
        ({"background": 256}, "background must be"),
        ({"background": (1, 2)}, "background must be"),
        ({"background": 0.5}, "background must be"),
        ({"fill": "drop"}, r"fill must be 0\.\.255, three such numbers, 'black' or 'white', got 'drop'"),
        ({"fill": -1}, "fill must be"),
    ],
)
@pytest.mark.parametrize("request_", [FitRequest, TrainRequest, SynthRequest])
def test_what_is_no_geometry_is_refused(request_: Any, wrong: dict[str, Any], sentence: str) -> None:
    needed = {FitRequest: {"model": None}, TrainRequest: {}, SynthRequest: {"method": "x", "out": "x"}}[request_]
    with pytest.raises(ConfigError, match=sentence) as caught, request_.checked():
        request_(data=None, **needed, **wrong)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("given", ["white", 255, "255", (255, 255, 255), "255,255,255", np.array([255, 255, 255])])
def test_a_colour_has_many_spellings(given: Any) -> None:
    asked = Geometry(background=given, resize="pad", fill=given)
    config = asked.applied(Preprocess(height=4, width=4))
    clear = Image.new("RGBA", (8, 4))
    assert (to_input(clear, config) == 255).all()


def test_the_options_replace_the_models_own() -> None:
    own = Preprocess(height=20, width=30, resize="pad", interpolation="bicubic", resize_to=(22, 33), fill=(9, 9, 9))
    assert Geometry().applied(own) == own
    assert Geometry(interpolation="box").applied(own).interpolation == "box"
    assert Geometry(resize="pad").applied(own) == own
    assert Geometry(crop_pct=0.9).applied(own) == own.model_copy(update={"resize_to": (22, 33)})
    assert Geometry(crop_pct=1).applied(own).resize_to is None
    # another resize than its own takes the whole image
    squashed = Geometry(resize="squash").applied(own)
    assert squashed == Preprocess(height=20, width=30, resize="squash", interpolation="bicubic")
    assert Geometry(resize="squash", crop_pct=0.875).applied(own).resize_to == (22, 34)


def test_a_fill_is_refused_where_there_is_nothing_to_fill() -> None:
    own = Preprocess(height=20, width=30)
    for asked in ({}, {"resize": "squash"}, {"crop_pct": 0.9}):
        with pytest.raises(ConfigError, match=r"fill= is not read with resize='.*'.*; give resize='pad'"):
            Geometry(fill=3, **asked).applied(own)
    assert Geometry(fill=3, crop_pct=1.2).applied(own).fill == (3, 3, 3)


def test_a_grey_input_has_grey_surroundings() -> None:
    own = Preprocess(height=4, width=8, channels=1)
    config = Geometry(resize="pad", fill=(30, 60, 90)).applied(own)
    assert to_input(np.zeros((4, 4), np.uint8), config)[0, :, 0].tolist() == [60, 60, 0, 0, 0, 0, 60, 60]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_are_pillows_where_the_transparency_is_dropped(mode: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (6, 6, 4), dtype=np.uint8))
    image = image.convert("P") if mode == "P" else image.convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    config = Preprocess(height=6, width=6, background="drop")
    assert np.array_equal(to_input(image, config), np.asarray(image.convert("RGB")))
    if mode == "RGBA":
        assert np.array_equal(to_input(np.asarray(image), config), np.asarray(image)[..., :3])
    red = Image.new("RGBA", image.size, (255, 0, 0))
    expected = Image.alpha_composite(red, image.convert("RGBA")).convert("RGB")
    got = to_input(image, Preprocess(height=6, width=6, background=(255, 0, 0)))
    assert np.abs(got.astype(int) - np.asarray(expected)).max() <= 1
