"""Classes that are left out: who stays, under which labels, and that nobody mistakes one part for the other."""

from __future__ import annotations

import numpy as np
import pytest

from guard.data import load
from guard.data.left_out import leave_out
from guard.errors import ConfigError, UnknownNameError

IMAGES = np.arange(8 * 4 * 4 * 3, dtype=np.uint8).reshape(8, 4, 4, 3)
LABELS = np.array([0, 1, 2, 3, 3, 2, 1, 0])


def test_the_others_keep_their_order_under_new_labels() -> None:
    data = load((IMAGES, LABELS))
    inside, outside = leave_out(data, ["1", "0"])
    assert inside.class_names == ("2", "3")
    assert inside.labels is not None
    assert inside.labels.tolist() == [0, 1, 1, 0]
    assert np.array_equal(inside.take(np.arange(4)), IMAGES[[2, 3, 4, 5]])
    assert np.array_equal(outside.take(np.arange(4)), IMAGES[[0, 1, 6, 7]])
    assert (outside.labels, outside.class_names) == (None, ())


def test_they_are_another_data_set_for_each_choice() -> None:
    data = load((IMAGES, LABELS))
    prints = [leave_out(data, names)[0].fingerprint for names in (["0"], ["1"], ["0", "1"], ["1", "0"])]
    assert prints[2] == prints[3]
    assert len({data.fingerprint, *prints}) == 4


@pytest.mark.parametrize("names", [[], ["0", "1", "2"], ["0", "0"]])
def test_impossible_choices_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="name each class once, at least one, and at least two of 0, 1, 2, 3 must"):
        leave_out(load((IMAGES, LABELS)), names)


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(UnknownNameError, match="'7'"):
        leave_out(load((IMAGES, LABELS)), ["7"])
