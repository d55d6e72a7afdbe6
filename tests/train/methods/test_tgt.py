"""TGT as users call it."""

from __future__ import annotations

from pathlib import Path

import pytest

import guard
from guard.errors import ConfigError
from tests import published
from tests.conftest import TINY, Arrays

FEW = {**TINY, "epochs": 2}


def test_random_weights_are_no_teacher(four: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="starts from random weights; give pretrained= or init="):
        guard.train(four, method="tgt", out=tmp_path / "run", **FEW)
    assert not (tmp_path / "run" / "guard.json").exists()


def test_it_fits_the_residual_of_what_it_starts_from(four: Arrays, tmp_path: Path) -> None:
    plain = guard.train(four, out=tmp_path / "plain", score="energy", **FEW)
    terms = {}
    for weight in (0.0, 1.0):
        g = guard.train(
            four, method="tgt", init=tmp_path / "plain", out=tmp_path / f"tgt{weight}", weight=weight, **FEW
        )
        lines = (tmp_path / f"tgt{weight}" / "metrics.jsonl").read_text().splitlines()
        terms[weight] = [float(line.split('"residual": ')[1].split(",")[0].rstrip("}")) for line in lines]
        assert g.manifest.score == "vim"
        assert len(plain.module.classifier.state_dict()) == len(g.module.classifier.state_dict())  # g is dropped
    assert terms[0.0] == [0.0, 0.0]
    assert 0 < terms[1.0][1] < terms[1.0][0]


def test_with_published_weights_its_score_is_the_pretrained_ones(four: Arrays) -> None:
    options = {**FEW, "backbone": published.ARCHITECTURE, "epochs": 1}
    g = guard.train(four, method="tgt", pretrained=str(published.FOLDER), objective="cosine", hidden=8, **options)
    assert g.manifest.score == "combined"


def test_mixed_labels_are_refused(four: Arrays) -> None:
    with pytest.raises(ConfigError, match="cutmix"):
        guard.train(four, method="tgt", teacher=str(published.FOLDER), **{**FEW, "augment": "cutmix"})
