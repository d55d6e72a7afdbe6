"""Whatever users bring to `guard.fit`, the guard is right, or one sentence says why there is none.

Folder layouts, file names, class names, tables, arrays and the input's options are drawn at random for a classifier
whose answers are known (`tests.colours`). The right label and name of each picture are computed here, from the drawing.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import guard
from guard.errors import GuardError
from tests.colours import COLOURS, NAMES, Nearest, pictures

LONGEST = 300  # letters of an error
CHECKS = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.function_scoped_fixture,
]


@dataclass
class Case:
    """One call of `guard.fit`, and what should come of it.

    Attributes:
        names: of the data's classes, by colour.
        order: the colour of each logit.
        form: how the data is given.
        class_names: as given; None where they are not.
        expected: (C,) the right name of each logit; None where the call is a mistake that must be refused.
        sure: the names follow from what was given; otherwise a warning is right too.
        options: of the input.
        files: what the pictures' files are called, and what else lies about.
    """

    names: list[str]
    order: list[int]
    form: str
    class_names: Any
    expected: list[str] | None
    sure: bool
    options: dict[str, Any] = field(default_factory=dict)
    mean: float = 0.5
    std: float = 0.5
    files: tuple[str, str, bool] = ("{row}", ".png", False)


def numbered(kind: str, classes: int) -> list[str]:
    return {
        "numbers": [str(i) for i in range(classes)],
        "from 1": [str(i + 1) for i in range(classes)],
        "zeros": [f"{i:03}" for i in range(classes)],
        "class_i": [f"class_{i}" for i in range(classes)],
        "LABEL_i": [f"LABEL_{i}" for i in range(classes)],
        "words": NAMES[:classes],
    }[kind]


letters = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\0")
odd_names = st.text(letters, min_size=1, max_size=12).filter(
    lambda text: text.strip(" .") == text and text[0] not in "@$_~#"
)
TAKEN = {"train", "test", "val", "valid", "data", "images"}  # what a folder of classes is not made of


def plain(name: str) -> str:
    """What two names must not share, here more broadly than the package has it."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def numeric(name: str) -> tuple[Any, ...]:
    """By the numbers in a name, then its letters; for the names of `numbered`."""
    digits = "".join(letter for letter in name if letter.isdigit())
    return (int(digits or 0), name)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    classes = draw(st.integers(2, len(COLOURS)))
    kind = draw(st.sampled_from(["numbers", "from 1", "zeros", "class_i", "LABEL_i", "words", "odd"]))
    if kind == "odd":
        names = draw(st.lists(odd_names, min_size=classes, max_size=classes, unique_by=plain))
        names = [name if name.lower() not in TAKEN and not name.isdigit() else f"{name}a" for name in names]
    else:
        names = numbered(kind, classes)
    form = draw(st.sampled_from(["folder", "nested folder", "csv", "parquet", "frame", "texts", "integers"]))
    how = draw(st.sampled_from(["text", "numeric", "given", "given, other case", "shuffled", "mistake"]))
    if form == "integers":
        names = [str(i) for i in range(classes)]
    by_text = sorted(range(classes), key=lambda at: names[at])
    by_number = by_text if kind in ("odd", "words") else sorted(range(classes), key=lambda at: numeric(names[at]))
    order = by_text if how == "text" else by_number if how == "numeric" else draw(st.permutations(range(classes)))
    expected: list[str] | None = [names[colour] for colour in order]
    given_names, sure = None, how in ("text", "numeric")
    if how.startswith("given"):
        assert expected is not None
        if how != "given" and all(plain(a) == plain(b) for a, b in ((n, n.upper()) for n in names)):
            expected = [name.upper() for name in expected]
        sure = True
        given_names = draw(form_of_names(expected))
    if how == "mistake":
        given_names, expected = draw(mistaken(expected)), None
    options, mean, std = draw(inputs())
    if options.pop("refused", False):
        expected = None
    files = draw(
        st.tuples(
            st.sampled_from(["{row}", "pic {row}", "{row}é", "{row}.tar", "-{row}", '{row}\'s "x"', "%2F{row}"]),
            st.sampled_from([".png", ".PNG", ".bmp", ".webp", ".tif", ".ppm"]),
            st.booleans(),
        )
    )
    return Case(names, list(order), form, given_names, expected, sure, options, mean, std, files)


@st.composite
def form_of_names(draw: st.DrawFn, names: list[str]) -> Any:
    pairs = draw(st.permutations(list(enumerate(names))))
    forms: list[Any] = [
        names,
        tuple(names),
        np.array(names),
        np.array(names, object),
        [name.encode() for name in names],
        {name: at for at, name in pairs},
        {name: np.int64(at + 1) for at, name in pairs},
        dict(pairs),
        {str(at): name for at, name in pairs},
        {str(at + 1): name for at, name in pairs},
    ]
    if names[0].endswith("\0"):
        return names
    return draw(st.sampled_from(forms))


@st.composite
def mistaken(draw: st.DrawFn, names: list[str] | None) -> Any:
    assert names is not None
    at = draw(st.integers(0, len(names) - 1))
    mistakes: list[Any] = [
        names[:-1],
        [*names, "one more"],
        [*names[:-1], names[0]],
        {name: 2 * index for index, name in enumerate(names)},
        {name: index - 1 for index, name in enumerate(names)},
        {index + 2: name for index, name in enumerate(names)},
        [0.5 + index for index in range(len(names))],
        [*names[:at], None, *names[at + 1 :]],
        [[name] for name in names],
        [],
        {},
        set(names),
        "".join(names) + ".nothing",
        7,
        True,
        b"".join(name.encode() for name in names),
        [*names[:at], "", *names[at + 1 :]],
        np.array([names]),
        "x" * draw(st.sampled_from([10, 300, 1_000_000])) + ".none",
        ["y" * 100_000, *names],
    ]
    return draw(st.sampled_from(mistakes))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[dict[str, Any], float, float]:
    """Options of the input, "refused" where one must be; and the mean and std that they stand for."""
    mean, std = draw(st.sampled_from([(0.5, 0.5), (0.0, 1.0), (0.25, 0.2)]))
    shapes = [
        lambda value: (value,) * 3,
        lambda value: [value] * 3,
        lambda value: value,
        lambda value: np.full(3, value),
        lambda value: torch.full((3,), value),
        lambda value: torch.tensor(value),
        lambda value: np.float32(value),
    ]
    options: dict[str, Any] = {"mean": draw(st.sampled_from(shapes))(mean), "std": draw(st.sampled_from(shapes))(std)}
    if draw(st.booleans()):
        options["image_size"] = draw(st.sampled_from([8, "8", 8.0, np.int64(8), torch.tensor(8), (8, 8), [5], "12x12"]))
    if draw(st.booleans()):
        options["in_chans"] = draw(st.sampled_from([3, "3", np.int64(3), None]))
    if draw(st.booleans()):
        options["batch_size"] = draw(st.sampled_from([1, 7, "16", np.int32(64)]))
    for name, accepted in {
        "resize": ["crop", "squash", "pad"],
        "crop_pct": [0.5, 0.875, 1, "0.9", np.float32(1)],
        "interpolation": ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"],
        "background": ["black", 255, "1,2,3", (9, 9, 9), "drop"],
        "channel_order": ["rgb", "bgr"],
    }.items():
        if draw(st.integers(0, 4)) == 0:
            options[name] = draw(st.sampled_from(accepted))
    if draw(st.integers(0, 5)) == 0:
        bad: dict[str, list[Any]] = {
            "mean": [(0.5, 0.5), "abc", float("nan"), [None] * 3, np.zeros((3, 3)), {}, [[0.5, 0.5]] * 3],
            "std": [0.0, -1, (0.5,) * 4, "0", float("inf"), [float("nan")] * 3, (), 0 * np.ones(3)],
            "image_size": [0, -8, "eight", 8.5, 10**9, (8, 8, 8), True, float("nan"), [], "8x8x8"],
            "in_chans": [2, 0, -1, "rgb", 3.5, True],
            "resize": ["stretched", 3, True],
            "crop_pct": [0, -1, 87.5, "most", float("nan")],
            "interpolation": ["best", 2],
            "background": ["mauve", -1, 256, (1, 2), "1,2", float("nan")],
            "channel_order": ["grb", 1],
            "name": [5, ["a"], "n" * 5000, "a\0b"],
            "out": [5, b"\xff", "o" * 300, "a\0b"],
            "features": ["nothing", 3, "f" * 10**6],
            "seed": [-1, 2**31, 1.5, "one", True],
            "batch_size": [0, -1, 1.5, "some", True, float("inf")],
            "workers": ["many", 1.5],
            "alpha": ["a lot", 0, 1, -0.1, float("nan"), (0.05,)],
            "calibration": [-1, 10**9, "nothing/here", 1.5, float("nan")],
            "score": ["nothing", 7, ""],
            "device": ["tpu", 3, None],
        }
        name = draw(st.sampled_from(sorted(bad)))
        options |= {name: draw(st.sampled_from(bad[name])), "refused": True}
    return options, mean, std


def written(case: Case, root: Path, images: np.ndarray, labels: np.ndarray) -> Any:
    """The data in the form of the case."""
    pattern, suffix, clutter = case.files
    texts = [case.names[label] for label in labels]
    if case.form == "integers":
        return images, labels
    if case.form == "texts":
        return list(images), texts
    paths = []
    for row, (image, name) in enumerate(zip(images, texts, strict=True)):
        below = (
            f"{name}/part {row % 2} of {name}"
            if case.form == "nested folder"
            else name
            if "folder" in case.form
            else "pics"
        )
        path = Path(below if "folder" in case.form else "pics", pattern.format(row=row) + suffix)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / path)
        paths.append(str(path))
        if clutter:
            (root / path).with_suffix(".json").write_text("{}")
    if "folder" in case.form:
        return str(root)
    if case.form == "frame":
        import pandas as pd

        return pd.DataFrame({"label": texts, "path": [str(root / path) for path in paths]})
    if case.form == "csv":
        import csv

        with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *zip(paths, texts, strict=True)])
        return root / "labels.csv"
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": paths, "label": texts}), root / "all.parquet")
    return root / "all.parquet"


def check(case: Case, root: Path, log: pytest.LogCaptureFixture) -> None:
    images, labels = pictures(len(case.names), 8)
    data = written(case, root, images, labels)
    log.clear()
    asked = {"calibration": 6, "test": 0, "alpha": 0.2, "device": "cpu", **case.options}
    model = Nearest(case.order, case.mean, case.std, bgr=case.options.get("channel_order") == "bgr")
    g, refused = None, ""
    try:
        g = guard.fit(model, data, class_names=case.class_names, **asked)
    except GuardError as error:
        refused = str(error)
    if g is None:
        assert case.expected is None, f"refused: {refused}"
        assert "\n" not in refused
        assert len(refused) < LONGEST, f"{len(refused)} letters: {refused}"
        return
    assert case.expected is not None, f"not refused: {case.class_names!r:.200} {case.options!r}"
    right = list(g.class_names) == case.expected
    assert right or (not case.sure and "wrong logits" in log.text), (g.class_names, case.expected, log.text)
    fresh, colours = pictures(len(case.names), 2, seed=1)
    verdicts = g.predict(list(fresh))
    logits = np.argsort(case.order)[colours]
    np.testing.assert_array_equal(verdicts.label, logits)
    assert not right or verdicts.class_name == [case.expected[logit] for logit in logits]
    if right:
        assert guard.evaluate(g, id=data, bootstrap=0).id.accuracy == 1.0


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(case=cases())
def test_a_guard_is_right_or_refused_in_a_sentence(case: Case, request: pytest.FixtureRequest) -> None:
    _run(case, request)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(case=cases())
def test_many_guards_are_right_or_refused_in_a_sentence(case: Case, request: pytest.FixtureRequest) -> None:
    _run(case, request)


def _run(case: Case, request: pytest.FixtureRequest) -> None:
    log = request.getfixturevalue("caplog")
    with tempfile.TemporaryDirectory() as folder, log.at_level(logging.WARNING, "ood_guard"):
        check(case, Path(folder), log)
