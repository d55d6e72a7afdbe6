"""Files of 16 or 32 bits that hold fewer: said once for a data set, for predict and for a service; never for others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import guard
from guard.data import load
from guard.deep_images import _said
from tests.train.models import sequential


@pytest.fixture(autouse=True)
def nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    _said.clear()
    caplog.set_level(logging.WARNING, logger="ood_guard")


def files(root: Path, largest: int, dtype: Any = np.uint16, ending: str = "png", count: int = 80) -> Path:
    """Two classes of grey files whose values are 0 .. largest."""
    rng = np.random.default_rng(0)
    for index in range(count):
        folder = root / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, largest + 1, (8, 8)).astype(dtype)
        values[0, 0] = largest
        Image.fromarray(values).save(folder / f"{index}.{ending}")
    return root


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "65535 is white" in r.getMessage()]


@pytest.mark.parametrize(
    ("largest", "dtype", "ending", "become"),
    [
        (255, np.uint16, "png", "become black; multiply them by 257, or save 8-bit values"),
        (1023, np.uint16, "tiff", "become nearly black; multiply them by 64.06"),
        (4095, np.uint16, "png", "become nearly black; multiply them by 16"),
        (16383, np.uint16, "png", "become dark; multiply them by 4"),
        (200, np.int32, "tiff", "become black"),
    ],
)
def test_it_is_said_once_for_a_data_set(
    largest: int, dtype: Any, ending: str, become: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(str(files(tmp_path / "few", largest, dtype, ending)), channels=1)
    (sentence,) = said(caplog)
    assert sentence.startswith(f"few: 64 of 64 images looked at have 16 or 32 bits and a largest value of {largest}")
    assert become in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (40000, np.uint16), (255, np.uint8)])
def test_it_is_not_said_of_others(largest: int, dtype: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(str(files(tmp_path / "full", largest, dtype)), channels=1)
    assert said(caplog) == []


def test_fit_and_predict_say_it_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = files(tmp_path / "camera", 4095)
    g = guard.fit(sequential(2), str(data), mean=0.5, std=0.5, image_size=16, device="cpu")
    assert len(said(caplog)) == 1
    caplog.clear()
    paths = sorted(data.glob("*/*.png"))
    for _ in range(2):
        g.predict(paths[:5])
    (sentence,) = said(caplog)
    assert sentence.startswith("predict: 5 of 5 images looked at")
