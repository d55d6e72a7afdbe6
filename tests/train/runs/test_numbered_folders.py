"""Folders "0" ... "11", which sort as text, keep their names through training and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import guard
from tests.colours import pictures, write_folders


def test_each_label_has_the_name_of_its_folder(tmp_path: Path) -> None:
    names = [str(i) for i in range(12)]
    images, labels = pictures(12, 16)
    data = write_folders(tmp_path / "train", images, labels, names)
    options = {"backbone": "wrn10_2", "epochs": 6, "batch_size": 32, "device": "cpu", "augment": "none"}
    g = guard.train(data, calibration=24, test=0, **options)
    assert g.class_names == tuple(sorted(names))
    fresh, truth = pictures(12, 3, seed=1)
    named = np.array(g.predict(list(fresh)).class_name)
    share = float((named == truth.astype(str)).mean())
    assert share > 0.5  # names in another order would be right for 2 of 12
    other = write_folders(tmp_path / "other", fresh, truth, names)
    some = write_folders(tmp_path / "some", fresh[truth > 8], truth[truth > 8], names)
    assert guard.evaluate(g, id=other, bootstrap=0).id.accuracy == share
    assert guard.evaluate(g, id=(fresh, truth.astype(str)), bootstrap=0).id.accuracy == share
    part = float((named == truth.astype(str))[truth > 8].mean())
    assert guard.evaluate(g, id=some, bootstrap=0).id.accuracy == part
