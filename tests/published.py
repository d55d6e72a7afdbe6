"""A small network in the form that published weights have: timm's folder, with random weights from a seed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ARCHITECTURE = "test_resnet"  # timm's smallest
FOLDER = Path(tempfile.gettempdir()) / f"published-teacher-{os.getpid()}"  # made in `tests.conftest`, and removed


def write(folder: Path) -> None:
    """Make the folder; needs torch."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = timm.create_model(ARCHITECTURE, num_classes=5)
    folder.mkdir(exist_ok=True)
    timm.models.save_for_hf(model, folder, model_config={}, safe_serialization=True)
