"""Drawn pictures as outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guard.data import load
from train.augmentations.pictures import drawn_pictures, picture_sides
from train.outliers.base import IDBatch, PrepareContext, Synthesiser, create_synthesiser
from train.runs.synth import untrained


def prepared(seed: int, folder: Path) -> Synthesiser:
    rng = np.random.default_rng(0)
    data = load((rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8), np.arange(12) % 2))
    drawn = create_synthesiser("drawn", 20, 2, pictures=6)
    module = untrained(data, torch.device("cpu"))
    drawn.prepare(PrepareContext(module, data, folder, seed, torch.device("cpu")))
    return drawn


BATCH = IDBatch(torch.zeros(4, 16, 16, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))


def made(seed: int, folder: Path, draw: int = 7) -> torch.Tensor:
    return prepared(seed, folder).sample(BATCH, torch.Generator().manual_seed(draw)).data


def test_the_pictures_go_to_the_device_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that copied all of them would wait for the device."""
    drawn, to = prepared(1, tmp_path), torch.Tensor.to
    moved: list[int] = []

    def counted(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        moved.append(len(x))
        return to(x, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    for _ in range(3):
        drawn.sample(BATCH, torch.Generator())
    assert moved.count(6) == 1


def test_the_training_seed_decides_the_pictures_and_the_step_what_is_shown(tmp_path: Path) -> None:
    assert torch.equal(made(1, tmp_path), made(1, tmp_path))
    assert not torch.equal(made(1, tmp_path), made(2, tmp_path))
    assert not torch.equal(made(1, tmp_path), made(1, tmp_path, draw=8))


def test_each_is_a_part_of_a_picture_mirrored_or_not(tmp_path: Path) -> None:
    pictures = drawn_pictures(*picture_sides(16, 16), 3, 1, 6).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (16, 16), axis=(1, 2))
    parts = windows.reshape(-1, 3, 16, 16).transpose(0, 2, 3, 1)
    every = {p.tobytes() for q in (parts, parts[:, ::-1], parts[:, :, ::-1], parts[:, ::-1, ::-1]) for p in q}
    shown = made(1, tmp_path).numpy()
    assert all(image.tobytes() in every for image in shown)
    assert len({image.tobytes() for image in shown}) > 15
