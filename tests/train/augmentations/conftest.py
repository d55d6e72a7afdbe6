"""Fewer pictures than in a training: they take the time of these tests."""

from __future__ import annotations

import pytest

from train.augmentations import pictures


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "how_many", lambda height, width: 50)
