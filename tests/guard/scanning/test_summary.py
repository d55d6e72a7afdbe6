"""The summary of a scan: counts, rates, drift, and the images with the largest scores."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import guard
from guard.monitoring.monitor import rate_interval
from guard.scanning import summary as module
from guard.scanning.extremes import Largest
from guard.scanning.result import ScanSummary
from tests.guard.scanning.conftest import pixels, rows_of


def test_counts_and_rates_are_those_of_the_rows(colours: Path, folder: Path, tmp_path: Path) -> None:
    found = guard.scan(colours, folder, out=tmp_path / "out", workers=0, shard_size=25, device="cpu")
    rows = rows_of(tmp_path / "out")
    flagged = [row for row in rows if row["is_ood"]]
    assert found.flagged == len(flagged) == 3
    assert found.ood_rate == pytest.approx(3 / 90)
    assert (found.ood_rate_low, found.ood_rate_high) == rate_interval(3, 90)
    for c in found.classes:
        assert c.images == sum(row["class_name"] == c.class_name for row in rows)
        assert c.flagged == sum(row["class_name"] == c.class_name for row in flagged)
    by_score = sorted(rows, key=lambda row: row["ood_score"])
    assert [image.row for image in found.most_ordinary[:9]] == [row["row"] for row in by_score[:9]]
    assert [image.row for image in found.most_ood[:3]] == [row["row"] for row in by_score[-1:-4:-1]]
    assert ScanSummary.model_validate_json((tmp_path / "out" / "summary.json").read_bytes()) == found


def test_the_largest_of_all_shards_are_kept_in_order() -> None:
    keys, ties = np.round(np.random.default_rng(0).normal(size=500), 1), np.random.default_rng(1).normal(size=500)
    keys[::50] = np.nan
    largest = Largest(20)
    for at in range(0, 500, 60):
        part = slice(at, at + 60)
        largest.update(keys[part], {"row": np.arange(500)[part]}, among_equals=ties[part])
    known = [i for i in range(500) if not np.isnan(keys[i])]
    wanted = sorted(known, key=lambda i: (-keys[i], -ties[i]))[:20]
    assert largest._columns["row"].tolist() == wanted


def test_drift_is_tested_in_random_order(colours: Path, tmp_path: Path) -> None:
    """Ordinary images that come one class after the other, whose scores differ, are not drift; strange ones are."""
    rng = np.random.default_rng(0)

    def images(n: int) -> np.ndarray:
        levels = np.sort(rng.integers(120, 250, n))  # in runs: the scores rise through the data set
        made = np.zeros((n, 8, 8, 3), np.uint8)
        made[..., 0] = levels[:, None, None]
        return made

    g = guard.load(colours, device="cpu").calibrate(images(400))
    sorted_scores = g.predict(images(600))
    assert guard.DriftMonitor.of(g.manifest).update_verdicts(sorted_scores).alarm  # what it would say in their order
    ordinary = guard.scan(g, images(600), out=tmp_path / "ordinary", workers=0)
    strange = guard.scan(g, images(600) // 2, out=tmp_path / "strange", workers=0)
    assert ordinary.drift is not None
    assert strange.drift is not None
    assert (ordinary.drift.alarm, strange.drift.alarm) == (False, True)
    assert "No drift found in 600 images" in str(ordinary)


def test_of_very_many_images_random_ones_are_tested(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRIFT_IMAGES", 30)
    found = guard.scan(colours, folder, out=tmp_path / "out", workers=0, shard_size=25, device="cpu")
    assert found.drift is not None
    assert (found.drift.images, found.scored) == (30, 90)


class Page(HTMLParser):
    """The images of a page, and whether anything is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.sources.append(given["src"] or "")
            self.titles.append(given["alt"] or "")
        assert tag not in ("script", "iframe")


def test_the_page_shows_the_images_themselves(colours: Path, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 200, 3), 255, np.uint8)).save(folder / "red" / "<b>&.png")
    found = guard.scan(colours, folder, out=tmp_path / "out", workers=0, device="cpu")
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert page.titles == [image.path for image in (*found.most_ood, *found.most_ordinary)]
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in page.sources)
    assert "red/<b>&.png" in page.titles
    assert "<b>&.png" not in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_an_uncalibrated_guard_has_neither_p_values_nor_drift(colours: Path, folder: Path, tmp_path: Path) -> None:
    g = guard.load(colours, device="cpu")
    bare = guard.Guard(g.manifest.model_copy(update={"calibration": None}), g.runtime)
    found = guard.scan(bare, folder, out=tmp_path / "out", labelled=True, workers=0)
    assert (found.drift, found.target_rate, found.flagged) == (None, None, 0)
    assert found.labels is not None
    assert found.labels.off_class is None
    assert all(row["p_value"] is None for row in rows_of(tmp_path / "out"))
    json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_guards_own_data_is_named(colours: Path, folder: Path, tmp_path: Path) -> None:
    from guard.data import load

    g = guard.load(colours, device="cpu")
    own = load(folder, preprocess=g.manifest.preprocess).card({"train": 90})
    g = guard.Guard(g.manifest.model_copy(update={"data": (own,)}), g.runtime)
    found = guard.scan(g, folder, out=tmp_path / "out", labelled=True, workers=0)
    assert "is the data this guard was made from" in found.notes[0]
    other = guard.scan(g, (pixels(), np.repeat([0, 1, 2], 30)), out=tmp_path / "other", labelled=True, workers=0)
    assert not any("made from" in note for note in other.notes)
