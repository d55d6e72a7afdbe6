"""guard.train and guard.synth read images as they are asked to, and a run that is resumed otherwise is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import guard
from guard.errors import ConfigError
from guard.manifest import Preprocess
from tests.train.models import sequential


@pytest.fixture(scope="module")
def oblong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of sixty pictures of 20 x 12 pixels."""
    root = tmp_path_factory.mktemp("oblong")
    rng = np.random.default_rng(0)
    for index in range(120):
        pixels = rng.integers(0, 120, (12, 20, 3)) + 120 * (index % 2)
        (root / "ab"[index % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "ab"[index % 2] / f"{index}.png")
    return root


def test_a_network_is_trained_on_the_pixels_asked_for(oblong: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    asked = {"image_size": (8, 12), "resize": "pad", "fill": "white", "crop_pct": 0.8, "interpolation": "bicubic"}
    expected = Preprocess(
        height=8, width=12, resize="pad", resize_to=(10, 15), fill=(255, 255, 255), interpolation="bicubic"
    )
    once = {**tiny, "epochs": 1}
    g = guard.train(oblong, out=tmp_path / "run", **asked, **once)
    assert g.manifest.preprocess == expected
    again = guard.Guard.from_pretrained(tmp_path / "run", device="cpu")
    path = next(oblong.glob("*/*.png"))
    np.testing.assert_array_equal(again.predict(path).ood_score, g.predict(path).ood_score)
    with pytest.raises(ConfigError, match="geometry"):
        guard.train(oblong, out=tmp_path / "run", resume=True, **{**asked, "resize": "squash", "fill": None}, **once)


def test_outliers_are_made_of_the_pixels_asked_for(oblong: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "patch_shuffle", "count": 10, "device": "cpu", "gallery": False}
    store = guard.synth(oblong, out=tmp_path / "store", image_size="8x12", resize="squash", **options)
    assert (store.card.height, store.card.width) == (8, 12)
    g = guard.fit(sequential(2), oblong, image_size=16, mean=0.5, std=0.5, device="cpu")
    with pytest.raises(ConfigError, match="the classifier says how images become its input; omit resize"):
        guard.synth(oblong, out=tmp_path / "other", classifier=g, resize="squash", **options)
