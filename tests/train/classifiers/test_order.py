"""Names stand at the logits that answer so: index and name are right, or it is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.detector import Guard
from tests.colours import INPUT, NAMES, Nearest, pictures, write_folders

IMAGES, LABELS = pictures(12)
NUMBERS = [str(i) for i in range(12)]


def fitted(data: Any, order: Any = range(12), **options: Any) -> Guard:
    return guard.fit(Nearest(order), data, **{**INPUT, "calibration": 40, "test": 0, **options})


def right(g: Guard, logits: Any, names: Any) -> tuple[float, float]:
    """Shares of pictures whose index, and whose class name, are right; of (12,) logits and names by colour."""
    verdicts = g.predict(list(IMAGES))
    named = np.array(verdicts.class_name) == np.array(names)[LABELS]
    return float((verdicts.label == np.array(logits)[LABELS]).mean()), float(named.mean())


@pytest.mark.parametrize(
    "names",
    [
        NUMBERS,
        [str(i + 1) for i in range(12)],
        [f"{i:02}" for i in range(12)],
        [f"class_{i}" for i in range(12)],
        [f"LABEL_{i}" for i in range(12)],
        sorted(NUMBERS),
        sorted(f"img{i}" for i in range(12)),
        [name.title() if at % 2 else name for at, name in enumerate(sorted(NAMES))],
    ],
    ids=["numbers", "from 1", "zeros", "class_i", "LABEL_i", "text", "img as text", "ignoring case"],
)
def test_of_the_natural_orders_the_one_that_fits_the_labels_is_taken(
    names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_folders(tmp_path, IMAGES, LABELS, names)
    with caplog.at_level(logging.WARNING, "ood_guard"):
        g = fitted(data)
    assert g.class_names == tuple(names)
    assert right(g, range(12), names) == (1.0, 1.0)
    assert caplog.text.count("which fits the labels of 100 %") == (names != sorted(names))
    assert guard.evaluate(g, id=data, bootstrap=0).id.accuracy == 1.0


@pytest.mark.parametrize("trained", [NUMBERS, sorted(NUMBERS)], ids=["by number", "as text"])
def test_numbered_folders_keep_the_given_names_at_the_logits(
    trained: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Folder `trained[k]` holds the k-th logit's colour, whose name is given."""
    data = write_folders(tmp_path, IMAGES, LABELS, trained)
    g = fitted(data, class_names=NAMES)
    assert g.class_names == tuple(NAMES)
    assert right(g, range(12), NAMES) == (1.0, 1.0)
    assert guard.evaluate(g, id=data, bootstrap=0).id.accuracy == 1.0
    fresh, labels = pictures(12, 3, seed=1)
    other = write_folders(tmp_path / "other", fresh, labels, trained)
    assert guard.evaluate(g, id=other, bootstrap=0).id.accuracy == 1.0


def test_arrays_whose_labels_are_those_of_a_text_order(caplog: pytest.LogCaptureFixture) -> None:
    order = [int(name) for name in sorted(NUMBERS)]
    g = fitted((IMAGES, LABELS), order)
    logit = np.argsort(order)
    assert right(g, logit, NUMBERS) == (1.0, 1.0)
    assert "taken in text order (0, 1, 10, 11, 2 and 7 more)" in caplog.text


def test_two_names_in_each_others_place_are_warned_of(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    data = write_folders(tmp_path, IMAGES, LABELS, NAMES)
    g = fitted(data, class_names=["green", "red", *NAMES[2:]])
    assert right(g, [1, 0, *range(2, 12)], NAMES)[1] == pytest.approx(10 / 12)
    assert "with them 83 % of 104 labelled images are right, 100 % with the best" in caplog.text
    assert "(green -> red, red -> green)" in caplog.text


def test_names_that_say_nothing_in_another_order_are_warned_of(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    data = write_folders(tmp_path, IMAGES, LABELS, NAMES)
    fitted(data)  # the folders' order is black, blue, brick ...; the model's red, green, blue ...
    assert "the class names seem to stand at the wrong logits" in caplog.text


def test_a_weak_classifier_is_not_suspected(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).permutation(LABELS)
    with caplog.at_level(logging.WARNING, "ood_guard"):
        fitted((IMAGES, noise))
    assert "taken in" not in caplog.text
    assert "wrong logits" not in caplog.text


def test_classes_without_images_keep_their_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    some = LABELS % 3 == 0
    for at, data in enumerate(
        (
            (IMAGES[some], LABELS[some]),
            write_folders(tmp_path / "numbers", IMAGES[some], LABELS[some], NUMBERS),
            write_folders(tmp_path / "names", IMAGES[some], LABELS[some], [n.upper() for n in NAMES]),
        )
    ):
        caplog.clear()
        g = fitted(data, class_names={name: i for i, name in reversed(list(enumerate(NAMES)))}, calibration=20)
        assert right(g, range(12), NAMES) == (1.0, 1.0), at
        assert "the data has no images of 8 of the model's 12 classes" in caplog.text


@pytest.mark.parametrize("keys", [range(12), range(1, 13), map(str, range(12)), map(str, range(1, 13))])
def test_the_labels_of_a_configuration_are_read_whatever_their_keys_are(keys: Any, tmp_path: Path) -> None:
    from train.classifiers.hugging_face import _class_names

    class Config:
        id2label = dict(zip(keys, NAMES, strict=True))

    assert _class_names(Config()) == tuple(NAMES)


WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "tiger cat", "crane"]
SYNSETS = ["n01440764", "n01443537", "n02123159", "n02012849"]


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (SYNSETS, WORDS),
        (SYNSETS, ["Tench", "gold-fish", "tiger_cat", "crane"]),
        (["Carassius auratus", "crane", "tench", "tiger cat"], SYNSETS),
    ],
)
def test_synsets_are_matched_with_words(data: list[str], model: list[str], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    images, labels = pictures(4)
    by_model = [0, 1, 2, 3] if data == SYNSETS else [2, 0, 3, 1]  # colour -> name of the data
    g = fitted(write_folders(tmp_path, images, labels, [data[at] for at in by_model]), range(4), class_names=model)
    assert g.class_names == tuple(model)
    assert g.predict(list(images)).class_name == [model[at] for at in labels]
    assert guard.evaluate(g, id=tmp_path, bootstrap=0).id.accuracy == 1.0


def test_a_word_for_two_synsets_decides_nothing() -> None:
    from train.classifiers.imagenet import _counterparts

    assert _counterparts(("n02012849", "n01440764"), ("crane", "tench", "crane")) is None
    assert _counterparts(("n01440764",), ("tench", "crane")) == ("tench",)
    assert _counterparts(("n99999999",), ("tench",)) is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: "a", 1: "b", 2: "c"}, "the model brings 3 class names .a, b, c., but answers 4 classes"),
        ({0: "a", 2: "b", 4: "c", 6: "d"}, "the model's id2label has no index 1"),
        ({0: "red", 1: "green", 2: "blue", 3: "violet"}, "some classes of the data have the model's names and yellow"),
        (None, ""),
        ({"1": "Red", "2": "GREEN", "3": "blue", "4": "yel low"}, ""),
    ],
)
def test_labels_of_a_configuration_fit_the_logits_or_are_refused(labels: Any, message: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=4, layer_type="basic")
    model = transformers.ResNetForImageClassification(config).eval()
    model.config.id2label = labels
    images, truth = pictures(4)
    data = write_folders(tmp_path / "data", images, truth, NAMES)
    asked = {**INPUT, "image_size": 8, "calibration": 20, "test": 0}
    if message:
        with pytest.raises(guard.errors.GuardError, match=message):
            guard.fit(model, data, **asked)
    else:
        assert set(guard.fit(model, data, **asked).class_names) == set((labels or dict(enumerate(NAMES[:4]))).values())
    out = tmp_path / "run"  # names that are given overrule it, also in the folder that is written
    assert guard.fit(model, data, class_names=NAMES[:4], out=out, **asked).class_names == tuple(NAMES[:4])
    assert guard.load(out, device="cpu").class_names == tuple(NAMES[:4])
