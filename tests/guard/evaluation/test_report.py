"""The report is well-formed, self-contained, escapes names, and its drawings agree with the numbers."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from guard.calibration.conformal import calibrate
from guard.evaluation import charts
from guard.evaluation.metrics import bootstrap, detection_metrics
from guard.evaluation.report import render, write_report
from guard.evaluation.result import Evaluation, IdResult, OodResult
from guard.evaluation.wrong_answers import galleries, thumbnail
from guard.manifest import Calibration, Manifest, Normalisation, Preprocess
from guard.verdict import Verdicts

NAMES = ("cat", "dog & <b>puppy</b>")
VOID = {"meta", "link", "img", "br", "path", "line", "rect", "circle", "polyline"}


@dataclasses.dataclass
class Pictures:
    """Stands in for `ImageData`: remembers which images were asked for."""

    array: np.ndarray
    name: str = "test"

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self.array[indices]


def _verdicts(label: Any, probability: Any, scores: np.ndarray, calibration: Calibration | None) -> Verdicts:
    from guard.calibration.conformal import p_values

    label, probability = np.broadcast_to(label, len(scores)), np.broadcast_to(probability, len(scores))
    probabilities = np.stack([np.where(label == c, probability, 1 - probability) for c in range(2)], axis=1)
    threshold = calibration.threshold if calibration else np.inf
    scores = scores.astype(np.float32)
    return Verdicts(
        label.astype(np.int64),
        probabilities.astype(np.float32),
        scores,
        scores > threshold,
        p_values(scores, calibration),
        threshold,
        NAMES,
    )


def make(
    *, calibrated: bool = True, ood: dict[str, np.ndarray] | None = None, side: int = 8, channels: int = 3
) -> Evaluation:
    """An evaluation of 300 ID images; image i of every set is filled with the value i % 256."""
    generator = np.random.default_rng(0)
    calibration = calibrate(generator.normal(size=400), alpha=0.05) if calibrated else None
    manifest = Manifest(
        name="<pets>",
        class_names=NAMES,
        preprocess=Preprocess(height=side, width=side),
        normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
        method="plain",
        backbone="wrn16_2",
        head="linear",
        score="energy",
        calibration=calibration,
    )
    if ood is None:
        ood = {"far <i>": generator.normal(6, 1, 200), "near": generator.normal(1, 1, 100)}

    def pictures(count: int) -> Pictures:
        return Pictures(
            np.broadcast_to(
                (np.arange(count) % 256)[:, None, None, None].astype(np.uint8), (count, side, side, channels)
            )
        )

    scores = generator.normal(size=300)
    labels = generator.integers(0, 2, 300)
    predicted = np.where(generator.random(300) < 0.9, labels, 1 - labels)
    verdicts = _verdicts(predicted, generator.uniform(0.5, 1, 300), scores, calibration)
    right = verdicts.label == labels
    id_result = IdResult(
        name="test",
        images=300,
        corrupt=1,
        accuracy=float(right.mean()),
        accuracy_interval=(0.8, 0.95),
        accuracy_accepted=float(right[~verdicts.is_ood].mean()),
        false_alarm_rate=float(verdicts.is_ood.mean()),
        expected=(0.02, 0.08) if calibrated else None,
        labels=labels,
        verdicts=verdicts,
        source=pictures(300),
    )
    results = []
    for name, values in ood.items():
        answer = _verdicts(0, 0.7, values, calibration)
        results.append(
            OodResult(
                name=name,
                near=name == "near",
                images=len(values),
                corrupt=0,
                metrics=detection_metrics(scores, values),
                intervals=bootstrap(scores, values, resamples=20),
                flagged=float(answer.is_ood.mean()),
                flagged_interval=(0.1, 0.9),
                verdicts=answer,
                source=pictures(len(values)),
            )
        )
    return Evaluation(manifest, id_result, tuple(results), ("A note.",), 20, 0)


class _Checker(HTMLParser):
    """Collects text and attributes; fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def _read(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    checker.text = re.sub(r"\s+", " ", checker.text.replace("\xa0", " "))
    return checker


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    page = render(make())
    checker = _read(page)
    tags = {tag for tag, _, _ in checker.attributes}
    assert "script" not in tags
    for _, key, value in checker.attributes:
        if key in ("src", "href"):
            assert value is not None
            assert value.startswith("data:")
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # no placeholder left


def test_the_page_says_what_the_evaluation_says() -> None:
    evaluation = make()
    text = _read(render(evaluation)).text
    rate = 100 * evaluation.id.false_alarm_rate
    assert f"This guard flags {rate:.1f} % of in-distribution test images (target 5 %, expected 2.0–8.0 %)" in text
    assert f"{100 * evaluation.id.accuracy:.2f} %" in text
    for result in evaluation.ood:
        assert result.name in text
        assert f"{100 * result.metrics.fpr_at_95_id_tpr:.1f}" in text
    assert "A note." in text
    assert "Skipped because they could not be read: 1." in text


def test_names_are_escaped() -> None:
    page = render(make())
    assert "<b>puppy" not in page
    assert "far <i>" not in page
    assert "<pets>" not in page
    assert "&lt;b&gt;puppy&lt;/b&gt;" in page


@pytest.mark.parametrize("kind", ["no ood", "uncalibrated", "one image", "constant", "far away", "many sets"])
def test_odd_evaluations_have_a_page_too(kind: str) -> None:
    generator = np.random.default_rng(3)
    evaluation = {
        "no ood": lambda: make(ood={}),
        "uncalibrated": lambda: make(calibrated=False),
        "one image": lambda: make(ood={"one": np.array([2.0])}),
        "constant": lambda: make(ood={"flat": np.full(50, 1.0)}),
        "far away": lambda: make(ood={"far": generator.normal(1e30, 1e29, 50)}),
        "many sets": lambda: make(ood={f"set {i}": generator.normal(i, 1, 30) for i in range(20)}),
    }[kind]()
    page = render(evaluation)
    _read(page)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page).lower()


def test_the_files_are_written_side_by_side(tmp_path: Path) -> None:
    evaluation = make()
    written = write_report(evaluation, tmp_path / "new" / "report.html")
    assert written.read_text(encoding="utf-8") == render(evaluation)
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == json.loads(evaluation.to_json())


# ------------------------------------------------------------------------------------------------------- galleries


def test_galleries_show_the_most_confidently_wrong_first() -> None:
    evaluation = make()
    accepted, flagged, wrong = galleries(evaluation, most=5)
    near = evaluation.ood[1].verdicts
    lowest = np.sort(near.ood_score[~near.is_ood])[:5]
    assert [e.verdict.ood_score for e in accepted.exhibits] == pytest.approx(lowest)
    assert {e.truth for e in accepted.exhibits} == {"near"}
    assert accepted.total == sum((~r.verdicts.is_ood).sum() for r in evaluation.ood)

    v = evaluation.id.verdicts
    assert [e.verdict.ood_score for e in flagged.exhibits] == pytest.approx(np.sort(v.ood_score[v.is_ood])[::-1][:5])
    mistakes = (v.label != evaluation.id.labels) & ~v.is_ood
    best = np.argsort(-v.probability[mistakes], kind="stable")[:5]
    assert [e.verdict.probability for e in wrong.exhibits] == pytest.approx(v.probability[mistakes][best])
    assert wrong.total == mistakes.sum()
    for exhibit, index in zip(wrong.exhibits, np.flatnonzero(mistakes)[best], strict=True):
        assert exhibit.truth == NAMES[evaluation.id.labels[index]]
        assert exhibit.truth != exhibit.verdict.class_name
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(exhibit.uri.partition(",")[2]))))
        assert (pixels == index % 256).all()  # the picture is that of the verdict


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_small_and_small_images_stay_exact(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, channels)).astype(np.uint8)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail(pixels).partition(",")[2]))))
    np.testing.assert_array_equal(image, pixels if channels == 3 else pixels[..., 0])
    big = Image.open(io.BytesIO(base64.b64decode(thumbnail(np.zeros((300, 600, channels), np.uint8)).split(",")[1])))
    assert big.size == (128, 64)


# ---------------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.1, 8.2, [-2, 0, 2, 4, 6, 8]),
        (-2e6, 1e6, [-2e6, -1.5e6, -1e6, -5e5, 0, 5e5, 1e6]),
    ],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high, 6) == expected


def test_histogram_shares_match_numpy_and_outsiders_fall_into_the_end_bins() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    edges = np.linspace(-1, 1, 11)
    expected = np.histogram(np.clip(values, -1, 1), edges)[0] / 1000
    np.testing.assert_allclose(charts._shares(values, edges), expected)


def test_the_histogram_draws_shares_and_threshold_where_they_belong() -> None:
    id_scores, ood_scores = np.array([0.06] * 3 + [1.2]), np.array([0.99] * 4)
    svg = ElementTree.fromstring(charts.score_histogram(id_scores, ood_scores, 0.5, (0, 1), "a & b", 0))
    lines = [e for e in svg.iter("line") if e.get("class") == "threshold"]
    frame = charts.Frame(0, 1, 1)
    assert [float(e.attrib["x1"]) for e in lines] == [frame.x(0.5)]
    titles = [e.text or "" for e in svg.iter("title")]
    assert any("in-distribution 75.0 %" in t and "a & b 0.0 %" in t for t in titles)
    assert any(t.startswith("above") and "in-distribution 25.0 %" in t and "a & b 100.0 %" in t for t in titles)


def test_the_roc_chart_goes_through_its_points() -> None:
    line = charts.RocLine("x", 0, np.array([0, 0.2, 1]), np.array([0, 0.9, 1]), (0.2, 0.9))
    svg = ElementTree.fromstring(charts.roc_chart([line]))
    frame = charts.Frame(0, 1, 1)
    curve = next(svg.iter("polyline")).attrib["points"].split()
    assert curve == [f"{frame.x(x)},{frame.y(y)}" for x, y in [(0, 0), (0.2, 0.9), (1, 1)]]
    dot = next(svg.iter("circle"))
    assert (float(dot.attrib["cx"]), float(dot.attrib["cy"])) == (frame.x(0.2), frame.y(0.9))


def test_long_roc_curves_are_thinned_to_their_shape() -> None:
    x = np.linspace(0, 1, 50_000)
    y = x**0.2
    keep = charts._corners(x, y)
    assert len(keep) <= 401
    assert keep[0] == 0
    assert keep[-1] == len(x) - 1
    assert np.abs(np.interp(x, x[keep], y[keep]) - y).max() < 0.005


def test_p_values_on_a_bin_edge_belong_to_the_bin_that_ends_there() -> None:
    """p = 0.05 is flagged at alpha = 0.05, so it must be drawn in the flagged bin."""
    svg = charts.p_value_histogram(np.array([0.05, 0.5, 1.0, 0.051]), (0.01, 0.1), 0.05, bins=20)
    bars = [e for e in ElementTree.fromstring(svg).iter("rect") if (e.get("class") or "").startswith("bar")]
    assert [e.get("class") for e in bars][:3] == ["bar flagged", "bar id", "bar id"]
    heights = [float(e.attrib["height"]) > 0.1 for e in bars]
    assert [i for i, drawn in enumerate(heights) if drawn] == [0, 1, 9, 19]
