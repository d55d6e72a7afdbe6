"""The images that the stores of these tests are made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.outliers.store.stores import CPU, images
from train.outliers.base import PrepareContext
from train.runs.synth import untrained


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    data = images()
    return PrepareContext(untrained(data, CPU), data, tmp_path / "run", 5, CPU)
