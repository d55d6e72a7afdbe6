"""Means, sets left out, intervals, CSV and the page, on numbers small enough to check."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from guard.benchmark_file import BenchmarkFile
from guard.errors import ArtefactDamagedError, DataError
from guard.evaluation import metrics
from train.benchmark.card import card_of
from train.benchmark.differences import compared
from train.benchmark.intervals import _aurocs, over_images, over_seeds
from train.benchmark.page import render
from train.benchmark.plots import Box, Point, _labels, front, scatter
from train.benchmark.results import Results, Rows, read_scores, write_scores
from train.benchmark.summary import groups, left_out
from train.benchmark.tables import csv_text, markdown, short_table

METRICS = ("auroc", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr", "aupr_in", "aupr_out", "flagged")
ASKED = BenchmarkFile(data="digits", ood={"near": {"a": 1, "b": 1}, "far": {"c": 1}}, methods={"plain": {}, "mix": {}},
                      seeds=[0, 1, 2], epochs=3)  # fmt: skip


def row(method: str, score: str, seed: int, aurocs: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    ood = {name: {key: value if key == "auroc" else 0.5 for key in METRICS} for name, value in zip("abc", aurocs)}  # noqa: B905
    own = {"backbone": "net", "method": method, "head": "linear", "seed": seed, "score": score, "settings": "s"}
    speed = {"images_per_second": 900.0, "bare_images_per_second": 1000.0, "speed_relative": 0.9, "speed_low": 0.8,
             "speed_high": 1.0}  # fmt: skip
    return own | {"accuracy": 0.9, "false_alarm_rate": 0.05, "train_seconds": 60.0, "ood": ood} | speed | more


def results(*rows: dict[str, Any], folder: Path = Path()) -> Results:
    return Results(folder, list(rows), ("a", "b"), ("c",))


THREE = results(
    *(row("plain", "knn", seed, (0.7 + seed / 100, 0.8, 0.9)) for seed in range(3)),
    *(row("mix", "knn", seed, (0.75 + seed / 50, 0.8, 0.85), train_seconds=90.0) for seed in range(3)),
    *(row("mix", "vim", seed, (0.6, 0.6, 0.99), train_seconds=90.0, speed_relative=0.7) for seed in range(3)),
)


def test_means_are_over_sets_and_then_over_seeds() -> None:
    group = groups(THREE)[0]
    near = group.on(("a", "b"), "auroc")
    assert near is not None
    values = [(0.7 + 0.8) / 2, (0.71 + 0.8) / 2, (0.72 + 0.8) / 2]
    assert near.values == pytest.approx(values)
    assert (near.mean, near.deviation) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert group.on(("a", "missing"), "auroc") is None
    assert group.on((), "auroc") is None


def test_a_set_left_out_is_not_in_the_mean_of_the_others() -> None:
    group = groups(THREE)[2]
    means = {name: left_out(group, ("a", "b", "c"), name) for name in "abc"}
    assert {name: value and round(value.mean, 6) for name, value in means.items()} == {"a": 0.795, "b": 0.795, "c": 0.6}
    assert left_out(group, ("a",), "a") is None


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_interval_over_seeds_is_that_of_the_paired_t_test(n: int) -> None:
    random = np.random.default_rng(n)
    ours, theirs = random.normal(0.9, 0.02, n), random.normal(0.88, 0.02, n)
    found = over_seeds(ours - theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.sign == (1 if expected.low > 0 else -1 if expected.high < 0 else 0)


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert over_seeds([0.1]).interval is None
    assert over_seeds([0.1]).sign == 0


def test_a_resampled_auroc_is_that_of_the_images_drawn_so_often() -> None:
    random = np.random.default_rng(0)
    inside, outside = random.integers(0, 9, 30).astype(float), random.integers(3, 12, 20).astype(float)  # with ties
    times_in, times_out = random.multinomial(30, [1 / 30] * 30, 4), random.multinomial(20, [1 / 20] * 20, 4)
    found = _aurocs(inside, outside, times_in, times_out)
    expected = [
        metrics.auroc(np.repeat(inside, a), np.repeat(outside, b)) for a, b in zip(times_in, times_out, strict=True)
    ]
    np.testing.assert_allclose(found, expected)


def test_the_interval_over_images_is_as_wide_as_scipys() -> None:
    random = np.random.default_rng(1)
    first = {"": random.normal(0, 1, 150), "a": random.normal(1.2, 1, 120)}
    other = {"": first[""] + random.normal(0, 0.5, 150), "a": first["a"] + random.normal(-0.2, 0.5, 120)}

    def difference(i: np.ndarray, j: np.ndarray) -> float:
        i, j = i.astype(int), j.astype(int)
        return metrics.auroc(first[""][i], first["a"][j]) - metrics.auroc(other[""][i], other["a"][j])

    rows = (np.arange(150), np.arange(120))
    expected = stats.bootstrap(rows, difference, vectorized=False, n_resamples=2000, method="percentile", rng=0)
    low, high = over_images(first, other, ["a"], resamples=2000)
    interval = expected.confidence_interval
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.15 * (interval.high - interval.low))
    assert over_images(first, first, ["a"]) == (0, 0)
    with pytest.raises(DataError, match="150 and 149 scores of the test images"):
        over_images(first, {**other, "": other[""][1:]}, ["a"])


def test_differences_are_to_the_baseline_with_the_same_score_or_else_its_first() -> None:
    energy = (row("plain", "energy", seed, (0.1, 0.1, 0.1)) for seed in range(3))
    several = results(*THREE.rows, *energy)
    found = compared(several, groups(several), "plain")
    assert [(c.group.score, c.baseline.score) for c in found] == [("knn", "knn"), ("vim", "knn")]
    near, far = found[0].near, found[0].far
    assert near is not None
    assert far is not None
    assert near.mean == pytest.approx(np.mean([0.05, 0.06, 0.07]) / 2)
    assert (far.mean, far.sign, far.over) == (pytest.approx(-0.05), -1, "seeds")


def test_one_seed_is_compared_over_its_images(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    made = []
    for method, shift in (("plain", 0.5), ("mix", 2.5)):
        scores = {"": random.normal(0, 1, 200)} | {name: random.normal(shift, 1, 100) for name in "abc"}
        aurocs = tuple(metrics.auroc(scores[""], scores[name]) for name in "abc")
        made.append(row(method, "knn", 0, aurocs))  # type: ignore[arg-type]
        write_scores(tmp_path, made[-1], scores)
    found = results(*made, folder=tmp_path)
    (only,) = compared(found, groups(found), "plain")
    assert only.near is not None
    assert only.near.interval is not None
    assert (only.near.over, only.near.sign) == ("images", 1)
    assert only.near.interval[0] < only.near.mean < only.near.interval[1]
    page = render(ASKED, found)
    assert "400 bootstrap resamples of the images" in page
    write_scores(tmp_path, made[0], {"": np.zeros(199)})  # of other images
    _has_no_interval(found)
    for path in (tmp_path / "scores").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    _has_no_interval(found)
    for path in (tmp_path / "scores").iterdir():
        path.unlink()
    _has_no_interval(found)


def _has_no_interval(found: Results) -> None:
    """The difference stays, and nothing is raised."""
    (only,) = compared(found, groups(found), "plain")
    assert only.near is not None
    assert only.near.interval is None
    assert only.near.mean > 0


def test_csv_has_a_line_for_each_row_and_the_means() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(THREE))))
    assert len(lines) == 9
    assert [line["seed"] for line in lines[:3]] == ["0", "1", "2"]
    assert float(lines[1]["auroc near"]) == pytest.approx((0.71 + 0.8) / 2)
    assert float(lines[1]["auroc far"]) == float(lines[1]["auroc c"]) == 0.9
    assert not any("pytorch-ood" in key for key in lines[0])


def test_csv_has_the_other_librarys_numbers_where_it_has_the_score() -> None:
    with_theirs = row("plain", "knn", 0, (0.7, 0.8, 0.9))
    for numbers in with_theirs["ood"].values():
        numbers["theirs"] = {"auroc": 0.625, "fpr_at_95_id_tpr": 0.1, "fpr_at_95_ood_tpr": 0.2}
    found = results(with_theirs, row("plain", "own", 0, (0.7, 0.8, 0.9)))
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [line["pytorch-ood auroc near"] for line in lines] == ["0.625", ""]
    assert "## AUROC of pytorch-ood" in markdown(ASKED, found)
    assert "<small>62.5</small>" in render(ASKED, found)


def test_markdown_and_terminal_show_mean_and_spread() -> None:
    text = markdown(ASKED, THREE)
    assert "| plain | knn | 75.5 ± 0.5 | 90.0 ± 0.0 | 71.0 ± 1.0 |" in text
    assert "seeds 0, 1, 2; percent, ± is the standard deviation over seeds." in text
    assert "## Each OOD set left out" in text
    short = short_table(THREE).splitlines()
    assert len({len(line) for line in short}) == 1
    assert "75.5 ± 0.5" in short[1]


def test_the_page_marks_the_best_of_each_column_and_ranks_by_both() -> None:
    page = render(ASKED, THREE)
    overview = page.partition("<h2>Methods and scores</h2>")[2].partition("<tbody>")[2].partition("</table>")[0]
    rows = re.findall(r"<tr><th.*?</tr>", overview)
    names = [re.findall(r"</span>(\w+)</th><td class=\"text\">(\w+)", text)[0] for text in rows]
    assert names == [("plain", "knn"), ("mix", "knn"), ("mix", "vim")]
    near = [re.findall(r"<td[^>]*>", text)[2] for text in rows]
    assert ["best" in cell for cell in near] == [False, True, False]
    left = page.partition("<h2>Each OOD set left out</h2>")[2]
    assert "depends on a set: plain with knn without a; mix with knn without b; mix with knn without c" in left
    assert "<script" in page
    assert "a model that several runs share is in those of the run that trained it" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(("near", "far"), [(("a", "b"), ()), ((), ("c",)), ((), ()), (("a",), ("c",))])
def test_the_best_of_both_is_told_where_there_are_both(near: tuple[str, ...], far: tuple[str, ...]) -> None:
    found = Results(Path(), THREE.rows, near, far, other=("d",))
    page = render(ASKED, found)
    assert [title in page for title in ("best near", "best far", "best of both")] == [
        bool(near),
        bool(far),
        bool(near and far),
    ]
    assert "best accuracy" in page


def test_names_are_escaped() -> None:
    bad = '<img src=x>"&'
    asked = ASKED.model_copy(update={"name": bad, "methods": {bad: {}, "plain": {}}})
    found = results(row(bad, bad, 0, (0.7, 0.8, 0.9)), row("plain", bad, 0, (0.7, 0.8, 0.9)))
    page = render(asked, found)
    assert "<img" not in page
    assert "&lt;img" in page
    sets = {name: dict.fromkeys(METRICS, 0.5) for name in ("R&D <b>x", "a|b")}
    found = Results(Path(), [row("plain", "knn", 0, (0.7, 0.8, 0.9), ood=sets)], tuple(sets), ())
    assert "<b>x" not in render(ASKED, found)
    assert "R&amp;D &lt;b&gt;x" in render(ASKED, found)
    head = next(line for line in markdown(ASKED, found).splitlines() if line.startswith("| method") and "R&D" in line)
    assert re.split(r"(?<!\\)\|", head) == ["", " method ", " score ", " near ", " R&D <b>x ", r" a\|b ", ""]


def test_the_front_is_what_nothing_beats_for_its_cost() -> None:
    points = [Point(x, y, "", f"{x} {y}", 0) for x, y in ((3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9), (1, 0.2))]
    assert [(p.x, p.y) for p in front(points)] == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_labels_meet_neither_each_other_nor_points() -> None:
    random = np.random.default_rng(0)
    points = [Point(0, 0, f"method {i}, score", str(i), 0) for i in range(60)]
    places = {
        p: (float(x), float(y)) for p, (x, y) in zip(points, random.uniform((60, 20), (540, 300), (60, 2)), strict=True)
    }
    texts = re.findall(r'<text class="label" x="([-\d.]+)" y="([-\d.]+)">([^<]*)', "".join(_labels(points, places)))
    assert len(texts) > 10
    boxes = [Box(float(x), float(y) - 10, float(x) + 6.7 * len(t), float(y) + 3) for x, y, t in texts]
    assert not any(a.meets(b) for i, a in enumerate(boxes) for b in boxes[:i])
    dots = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    assert not any(a.meets(b) for a in boxes for b in dots)


def test_a_plot_of_one_point_has_a_range() -> None:
    svg = scatter([Point(1.0, 1.0, "a", "a", 0)], "x", "t")
    assert "nan" not in svg
    assert svg.count("<circle") == 1


def test_rows_of_several_processes_are_kept_side_by_side(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    rows.add([row("plain", "knn", 0, (0.7, 0.8, 0.9))])
    rows.add([row("mix", "knn", 0, (0.7, 0.8, 0.9))])
    later = row("plain", "knn", 0, (0.1, 0.2, 0.3))
    later["ood"] = {"new": later["ood"]["a"]}
    rows.add([later])
    there = rows.read()
    assert {found["method"]: list(found["ood"]) for found in there.values()} == {
        "plain": ["a", "b", "c", "new"],
        "mix": ["a", "b", "c"],
    }
    for other in ("{", "[]", "{}", '{"rows": [3]}', '{"rows": [{}]}'):
        (tmp_path / "results.json").write_text(other)
        with pytest.raises(ArtefactDamagedError, match=r"results\.json is damaged, or no benchmark wrote it"):
            rows.read()


def test_scores_of_images_come_back_and_are_added_to(tmp_path: Path) -> None:
    own = row("plain", "knn", 0, (0.7, 0.8, 0.9))
    assert read_scores(tmp_path, own) == {}
    write_scores(tmp_path, own, {"": np.arange(3.0), "a": np.ones(2)})
    write_scores(tmp_path, own, {"name, of a set": np.zeros(4)})
    found = read_scores(tmp_path, own)
    assert list(found) == ["", "a", "name, of a set"]
    np.testing.assert_array_equal(found[""], [0, 1, 2])
    path = next((tmp_path / "scores").iterdir())
    for damaged in (b"", path.read_bytes()[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactDamagedError, match=r"is damaged .* intervals are left out"):
            read_scores(tmp_path, own)


def test_a_damaged_card_is_said(tmp_path: Path) -> None:
    assert card_of(tmp_path) is None
    (tmp_path / "benchmark.json").write_text('{"identity": ')
    with pytest.raises(ArtefactDamagedError, match=r"benchmark\.json is damaged .*remove the folder to train anew"):
        card_of(tmp_path)
