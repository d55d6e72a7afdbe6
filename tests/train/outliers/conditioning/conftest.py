"""Digits, and anchors that are no more alike than random directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from guard.data import load
from tests.conftest import Arrays
from train.outliers.base import PrepareContext
from train.runs.synth import untrained


@pytest.fixture
def context(four: Arrays, tmp_path: Path) -> PrepareContext:
    """200 images of the digits 0-3 at 16 pixels, and a folder that does not exist yet."""
    data = load((four[0][:200], four[1][:200]))
    return PrepareContext(untrained(data, torch.device("cpu")), data, tmp_path / "kept", 0, torch.device("cpu"))


@pytest.fixture
def anchors() -> Tensor:
    """(4, 24), each of another length."""
    return torch.randn(4, 24, generator=torch.Generator().manual_seed(5)) * torch.tensor([[0.3], [0.4], [0.5], [2.0]])
