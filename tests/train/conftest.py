"""A context of digits for what is trained before a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guard.data import load
from guard.graph.module import GuardModule
from guard.manifest import Normalisation
from guard.scores import create_score
from tests.conftest import Arrays
from train.classifiers.fresh import build_classifier
from train.outliers.base import PrepareContext


@pytest.fixture
def context(four: Arrays, tmp_path: Path) -> PrepareContext:
    """The digits 0-3 at 16 pixels, an untrained classifier, a folder that does not exist yet."""
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 4, in_chans=3, image_size=16)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3))
    return PrepareContext(module, load(four), tmp_path / "kept", 0, torch.device("cpu"))
