"""The audit's numbers against slow or independent ones, and what it says of stores that teach a low-level statistic."""

from __future__ import annotations

import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import guard
from guard.data import ImageData, load
from tests.conftest import Arrays
from train.features.extract import stream_outputs
from train.outliers.audit.audit import _remedies, audit, folded_auroc, histogram, spread
from train.outliers.audit.duplicates import NEAR_RMS, describe, rms
from train.outliers.audit.low_level import REMEDIES, STATISTICS
from train.outliers.audit.record import Audit
from train.outliers.store.gallery import render, sheet
from train.outliers.store.store import Store, open_store


def noise(n: int, shape: tuple[int, ...] = (12, 12, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def given(images: np.ndarray) -> ImageData:
    return load(images, labelled=False, channels=images.shape[-1])


def labelled(images: np.ndarray, classes: int = 2) -> ImageData:
    return load((images, np.arange(len(images)) % classes), channels=images.shape[-1])


# --------------------------------------------------------------------------------------------- low-level statistics


@pytest.mark.parametrize("shape", [(12, 12, 3), (7, 9, 1)])
def test_low_level_statistics_are_scipys_and_pillows(shape: tuple[int, ...]) -> None:
    images = noise(6, shape)
    kernel = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    for i, image in enumerate(images):
        grey = image[..., 0].astype(float) if shape[-1] == 1 else image @ [0.299, 0.587, 0.114]
        sharp = np.abs(ndimage.convolve(grey, kernel)[1:-1, 1:-1]).mean()
        assert STATISTICS["sharpness"](images)[i] == pytest.approx(sharp)
        assert STATISTICS["relative sharpness"](images)[i] == pytest.approx(sharp / np.std(grey))
        assert STATISTICS["contrast"](images)[i] == pytest.approx(np.std(grey))
        assert STATISTICS["brightness"](images)[i] == pytest.approx(np.mean(grey))
        flat = ndimage.convolve(grey, kernel)[1:-1, 1:-1].ravel()
        assert STATISTICS["kurtosis"](images)[i] == pytest.approx(stats.kurtosis(flat, fisher=False))
        mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
        level = np.abs(ndimage.convolve(grey, mask)[1:-1, 1:-1]).mean() * np.sqrt(np.pi / 2) / 6
        assert STATISTICS["noise level"](images)[i] == pytest.approx(level)
        assert STATISTICS["clipped share"](images)[i] == np.isin(image, (0, 255)).mean()
        spread_ = [int(pixel.max()) - int(pixel.min()) for row in image for pixel in row]
        assert STATISTICS["saturation"](images)[i] == pytest.approx(np.mean(spread_))
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=95, subsampling=0)
        assert STATISTICS["coded bytes"](images)[i] == len(buffer.getvalue())


def test_the_noise_level_is_that_of_white_noise() -> None:
    rng = np.random.default_rng(0)
    images = (128 + rng.normal(0, 10, (20, 64, 64, 1))).round().astype(np.uint8)
    assert STATISTICS["noise level"](images).mean() == pytest.approx(10, rel=0.03)
    assert STATISTICS["kurtosis"](images).mean() == pytest.approx(3, rel=0.05)


def test_images_too_small_or_too_flat_have_numbers_too() -> None:
    for images in (noise(3, (2, 2, 3)), np.full((3, 8, 8, 1), 7, np.uint8)):
        for number in STATISTICS.values():
            assert np.isfinite(number(images)).all()


def test_every_low_level_statistic_has_a_remedy() -> None:
    assert set(REMEDIES) == set(STATISTICS)


@pytest.mark.parametrize("shift", [-30, 0, 30])
def test_the_auroc_is_scikit_learns_whichever_side_is_larger(shift: int) -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.integers(0, 60, 300), rng.integers(0, 60, 200) + shift
    theirs = roc_auc_score([0] * 300 + [1] * 200, np.concatenate([inside, outside]))
    assert folded_auroc(inside, outside) == pytest.approx(max(theirs, 1 - theirs))


def test_what_is_separated_is_named_with_what_to_do() -> None:
    inside = noise(200) // 2 + 1  # none is clipped
    found = audit(given(noise(100, seed=1) // 2 + 101), labelled(inside))
    assert found.separation["brightness"] == 1
    assert found.separation["contrast"] < 0.7
    (warning,) = found.warnings
    assert "brightness (1.00)" in warning
    assert "contrast (" not in warning
    assert "--match brightness" in warning
    assert "coding" not in warning  # the source has none
    matched = audit(given(noise(100, seed=1) // 2 + 101), labelled(inside), matched=("brightness",))
    assert "--match" not in matched.warnings[0]
    assert "mix in outliers of another synthesiser" in matched.warnings[0]
    alike = audit(given(noise(100, seed=1) // 2 + 1), labelled(inside))
    assert alike.warnings == ()


@pytest.mark.parametrize(
    ("high", "matched", "coded", "advised"),
    [
        (["sharpness", "contrast", "brightness"], (), False, ["spectrum"]),
        (["contrast", "saturation"], (), True, ["contrast", "saturation"]),
        (["sharpness", "coded bytes"], (), True, ["spectrum", "coding"]),
        (["sharpness", "coded bytes"], ("spectrum",), True, ["coding"]),
        (["sharpness", "contrast"], ("spectrum", "coding"), True, []),
    ],
)
def test_the_fewest_matches_that_equalise_all_are_advised(
    high: list[str], matched: tuple[str, ...], coded: bool, advised: list[str]
) -> None:
    assert _remedies(high, matched, coded) == advised


# --------------------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parametrize("shape", [(12, 12, 3), (7, 20, 1), (5, 6, 3)])
def test_descriptions_are_never_farther_than_the_images(shape: tuple[int, ...]) -> None:
    a, b = noise(200, shape), noise(200, shape, seed=1)
    b[:100] = (a[:100].astype(int) + np.random.default_rng(2).integers(-3, 4, (100, *shape))).clip(0, 255)
    distance = np.linalg.norm(describe(a) - describe(b), axis=-1)
    exact = [np.sqrt(np.mean((x.astype(float) - y) ** 2)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rms(a, b), exact, rtol=1e-5)
    assert (distance <= np.array(exact) * (1 + 1e-5)).all()
    constant = describe(np.zeros((1, *shape), np.uint8)) - describe(np.full((1, *shape), 9, np.uint8))
    if shape[0] % min(8, shape[0]) == shape[1] % min(8, shape[1]) == 0:
        assert np.linalg.norm(constant) == pytest.approx(9, rel=1e-5)  # the bound is reached


def test_duplicates_and_copies_are_those_that_all_pairs_show() -> None:
    inside, outside = noise(40), noise(60, seed=1)
    rng = np.random.default_rng(3)

    def nearly(images: np.ndarray, by: int) -> np.ndarray:
        return (images.astype(int) + rng.integers(-by, by + 1, images.shape)).clip(0, 255).astype(np.uint8)

    outside[10:13] = outside[0:3]  # repeated
    outside[20:24] = nearly(outside[30:34], 2)
    outside[40:42] = inside[5:7]  # copied
    outside[50:55] = nearly(inside[10:15], 2)
    outside[56:59] = nearly(inside[20:23], 9)  # too far
    found = audit(given(outside), labelled(inside))

    def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([[np.sqrt(np.mean((x.astype(float) - y) ** 2)) for y in b] for x in a])

    own, other = np.tril(pairs(outside, outside) + 1e-9, -1), pairs(outside, inside)
    own[own == 0] = np.inf
    repeated, copied = (own < 1e-6).any(1), (other == 0).any(1)
    assert found.exact_duplicates == repeated.sum() == 3
    assert found.near_duplicates == ((own <= NEAR_RMS).any(1) & ~repeated).sum() == 4
    assert found.exact_copies == copied.sum() == 2
    assert found.near_copies == ((other <= NEAR_RMS).any(1) & ~copied).sum() == 5
    assert any("2 of 60 outliers are in-distribution images, pixel by pixel" in w for w in found.warnings)
    assert any("7 of 60 outliers are (nearly) the same as another one" in w for w in found.warnings)


def test_large_sets_are_looked_at_in_part() -> None:
    data = given(noise(100, (4, 4, 1)))
    assert spread(data, 200) is data
    assert spread(data, 10).rows.tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]


# -------------------------------------------------------------------------------------------------- with a classifier


@pytest.fixture
def looked_at(four: Arrays, trained: Callable[[str], Any], tmp_path: Path) -> tuple[Store, Any]:
    """A store of shuffled patches, looked at by the classifier that was trained on the same images."""
    g = trained("plain")
    store = guard.synth(four, method="patch_shuffle", grid=2, count=60, out=tmp_path / "s", classifier=g, device="cpu")
    return store, g


def test_a_classifiers_view_is_what_it_predicts(looked_at: tuple[Store, Any], four: Arrays) -> None:
    store, g = looked_at
    found = store.card.audit
    assert found is not None
    seen = found.classifier
    assert seen is not None
    data = load(four)
    held_out = data.subset(np.sort(np.concatenate([g.splits["calibration"], g.splits["test"]])))
    pixels = store.images().array
    assert pixels is not None
    ours, theirs = g.predict(pixels), g.predict(held_out.array)
    assert seen.held_out == len(held_out)
    assert seen.held_out_note == "held out from making the outliers"
    assert seen.confident_share == pytest.approx((ours.probability >= 0.9).mean())
    assert seen.flagged_share == pytest.approx(ours.is_ood.mean())
    scores = np.concatenate([theirs.ood_score, ours.ood_score]).astype(float)
    assert seen.auroc == pytest.approx(roc_auc_score([0] * len(held_out) + [1] * 60, scores))
    assert sum(seen.outlier_scores.counts) == 60
    assert sum(seen.id_scores.counts) == len(held_out)

    def features(images: ImageData) -> np.ndarray:
        f = torch.cat([outputs.features for outputs in stream_outputs(g.module, images)]).double().numpy()
        return f / np.linalg.norm(f, axis=-1, keepdims=True)

    bank = NearestNeighbors(n_neighbors=1).fit(features(data.subset(g.splits["train"])))
    for mine, images in ((seen.outlier_distance, store.images()), (seen.id_distance, held_out)):
        distance = bank.kneighbors(features(images))[0][:, 0]
        np.testing.assert_allclose(mine, np.quantile(distance, [0.05, 0.25, 0.5, 0.75, 0.95]), rtol=1e-3)
    assert open_store(store.folder).card.audit == found


def test_an_exported_guard_shows_scores_and_no_features(
    four: Arrays, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"method": "patch_shuffle", "count": 30, "out": tmp_path / "s", "device": "cpu"}
    found = guard.synth(four, classifier=exported("plain"), **options).card.audit
    assert found is not None
    assert found.classifier is not None
    assert found.classifier.outlier_distance is None
    assert 0 <= found.classifier.confident_share <= 1
    assert "distance to nearest" not in dict(found.rows())


def test_an_audit_is_kept_until_something_is_new(four: Arrays, trained: Callable[[str], Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "patch_shuffle", "out": tmp_path / "s", "device": "cpu", "gallery": False}
    first = guard.synth(four, count=30, **options)
    assert first.card.audit is not None
    assert first.card.audit.classifier is None
    card = (tmp_path / "s" / "card.json").read_bytes()
    assert guard.synth(four, count=30, **options).card == first.card
    assert (tmp_path / "s" / "card.json").read_bytes() == card
    grown = guard.synth(four, count=40, **options)
    assert grown.card.audit is not None
    assert grown.card.audit.outliers == 40
    seen = guard.synth(four, count=40, classifier=trained("plain"), **options)
    assert seen.card.audit is not None
    assert seen.card.audit.classifier is not None


def test_histograms_hold_every_value() -> None:
    values = np.array([-5.0, 0.0, 0.05, 0.5, 1.0, 9.0])
    made = histogram(values, (0.0, 1.0))
    assert sum(made.counts) == 6
    assert made.counts[0] == 2  # what is below, and 0
    assert made.counts[-1] == 2
    assert made.edges[0] == 0


# ------------------------------------------------------------------------------------------------------------ gallery


class Page(HTMLParser):
    """Words, pictures, and that nothing is loaded from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.pictures, self.outside = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.pictures.append(values)
        for key in ("src", "href"):
            if (value := values.get(key)) and not value.startswith("data:"):
                self.outside.append(value)
        assert tag not in ("script", "iframe")

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def test_the_page_shows_every_class_beside_its_outliers(looked_at: tuple[Store, Any]) -> None:
    store, g = looked_at
    assert store.gallery == store.folder / "gallery.html"
    page = Page(store.gallery.read_text())
    assert page.outside == []
    audit_ = store.card.audit
    assert audit_ is not None
    assert [p["alt"] for p in page.pictures[:2]] == ["in-distribution images of 0", "outliers made from 0"]
    assert len(page.pictures) == 2 * 4
    words = " ".join(page.words.split())
    for name, auroc in audit_.separation.items():
        assert f"{name} {auroc:.3f}" in words
    assert "patches shuffled on a 2 x 2 grid" in words
    assert g.manifest.identity in words
    assert f"{100 * audit_.classifier.confident_share:.1f}" in words  # type: ignore[union-attr]


def test_names_in_the_page_are_escaped(four: Arrays, tmp_path: Path) -> None:
    store = guard.synth(four, method="patch_shuffle", count=20, out=tmp_path / "s", device="cpu", gallery=False)
    assert store.gallery is None
    names = ("<script>", "a & b", "c", "d")
    page = render(Store(store.folder, store.card.model_copy(update={"class_names": names})), load(four))
    assert "&lt;script&gt;" in page
    Page(page)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 200])
def test_a_sheet_is_the_images_in_order(channels: int, side: int) -> None:
    images = noise(5, (side, side, channels))
    made = sheet(images, 3)
    size = min(side, 96)
    assert made.shape == (2 * size + 2, 3 * size + 4, channels)
    if side == 8:
        np.testing.assert_array_equal(made[10:, 10:18], images[4])
        assert (made[10:, 20:] == 232).all()


def test_a_store_without_parents_has_a_page(four: Arrays, tmp_path: Path) -> None:
    store = guard.synth(four, method="smooth_noise", count=20, out=tmp_path / "s", device="cpu")
    assert store.gallery is not None
    assert len(Page(store.gallery.read_text()).pictures) == 2


def test_an_audit_has_a_row_for_every_number() -> None:
    audit_ = Audit(
        outliers=1, inliers=1, separation={"contrast": 0.5}, exact_duplicates=0, near_duplicates=0, exact_copies=0,
        near_copies=0, near_rms=2.0,
    )  # fmt: skip
    assert dict(audit_.rows())["contrast"] == "AUROC 0.500"
