"""Matching really equalises the number it matches, and leaves alone what it says it leaves alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import guard
from guard.data import load
from guard.data.coding import Coding, probe_codings, recode
from guard.errors import ConfigError, UnknownNameError
from tests.conftest import Arrays
from train.outliers import matching
from train.outliers.audit.audit import folded_auroc
from train.outliers.audit.low_level import STATISTICS
from train.outliers.base import IDBatch, PrepareContext, create_synthesiser
from train.outliers.images import PixelAverage
from train.outliers.matching import Matched, checked, match, match_half, match_spectrum
from train.outliers.store.fill import fill
from train.runs.synth import untrained


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def natural(n: int, side: tuple[int, int] = (16, 16), channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 (n, H, W, channels) of random power laws, contrast, colour and brightness."""
    rng = np.random.default_rng(seed)
    h, w = side
    radius = np.hypot(np.fft.fftfreq(h)[:, None] * h, np.fft.fftfreq(w)[None] * w).clip(1)
    noise = rng.standard_normal((n, h, w, channels)) + rng.standard_normal((n, h, w, 1)) * 2
    slope = rng.uniform(0.5, 1.5, (n, 1, 1, 1))
    shaped = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) * radius[None, ..., None] ** -slope, axes=(1, 2)).real
    shaped /= shaped.std((1, 2, 3), keepdims=True)
    return (
        (rng.uniform(90, 160, (n, 1, 1, 1)) + shaped * rng.uniform(15, 30, (n, 1, 1, 1))).clip(0, 255).astype(np.uint8)
    )


def floats(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double()


# ------------------------------------------------------------------------------------------------- slow and obvious


def ring_power(image: np.ndarray) -> np.ndarray:
    """Mean |F|^2 of a (H, W) image: of its mean, and over the rings of radius 1, 2 ... steps of the shorter side."""
    h, w = image.shape
    spectrum = np.fft.fft2(image)
    sums: dict[int, list[float]] = {}
    for u in range(h):
        for v in range(w):
            fu, fv = (u if u <= h // 2 else u - h) / h, (v if v <= w // 2 else v - w) / w
            ring = max(1, round(np.hypot(fu, fv) * min(h, w))) if u or v else 0
            sums.setdefault(ring, []).append(abs(spectrum[u, v]) ** 2)
    return np.array([np.mean(sums[r]) for r in sorted(sums)])


def grey(images: np.ndarray) -> np.ndarray:
    return images @ [0.299, 0.587, 0.114] if images.shape[-1] == 3 else images[..., 0]


NUMBERS = {
    "contrast": lambda x: grey(x).std((1, 2)),
    "brightness": lambda x: grey(x).mean((1, 2)),
    "saturation": lambda x: (x.max(-1) - x.min(-1)).mean((1, 2)),
}


def test_the_values_of_detail_and_of_channels_become_the_others_rank_by_rank() -> None:
    from scipy import ndimage

    images, like = natural(3), natural(3, seed=1)

    def detail(array: np.ndarray) -> np.ndarray:
        return array - ndimage.uniform_filter(array.astype(float), (1, 3, 3, 1), mode="nearest")

    for kind in ("detail", "histogram"):
        matched = matching.MATCHES[kind](floats(images), floats(like)).numpy()
        own, other, made = (
            (detail(images), detail(like), matched - (images - detail(images)))
            if kind == "detail"
            else (images, like, matched)
        )
        for i in range(3):
            for c in range(3):
                ranked = np.argsort(own[i, ..., c].ravel(), kind="stable")
                expected = np.empty(ranked.size)
                expected[ranked] = np.sort(other[i, ..., c].ravel())
                np.testing.assert_allclose(np.sort(made[i, ..., c].ravel()), np.sort(expected), atol=1e-9)
                if kind == "histogram":
                    np.testing.assert_array_equal(made[i, ..., c].ravel(), expected)


def test_phase_mixes_are_told_by_kurtosis_until_their_detail_is_matched() -> None:
    """Edges in smooth surfaces have a heavy tail that mixed phases lose: the spectrum does not hold it."""
    rng = np.random.default_rng(0)
    images = np.full((200, 16, 16, 3), 90, np.uint8)
    for image in images:
        for _ in range(3):
            (top, left), (h, w) = rng.integers(0, 10, 2), rng.integers(4, 12, 2)
            image[top : top + h, left : left + w] = rng.integers(0, 256, 3)
    batch = IDBatch(torch.from_numpy(images), torch.arange(200) % 4)
    mixes = create_synthesiser("phase_mix", 200, 4).sample(batch, generator()).data
    told = {}
    for names in ((), ("spectrum",), ("detail",), ("histogram",)):
        made = match(mixes, batch.images, names, generator(1)).numpy()
        told[names] = {
            n: folded_auroc(s(images), s(made)) for n, s in STATISTICS.items() if n in ("kurtosis", "clipped share")
        }
    assert told[()]["kurtosis"] > 0.9
    assert told[("spectrum",)]["kurtosis"] > 0.9
    assert told[("detail",)]["kurtosis"] < told[()]["kurtosis"] - 0.08
    assert told[("histogram",)]["clipped share"] < 0.6


@pytest.mark.parametrize(("side", "channels"), [((8, 8), 3), ((7, 9), 1), ((12, 8), 3)])
def test_the_power_at_every_radius_becomes_the_others_and_phases_stay(side: tuple[int, int], channels: int) -> None:
    images, like = natural(3, side, channels), natural(3, side, channels, seed=1)
    matched = match_spectrum(floats(images), floats(like)).numpy()
    for i in range(3):
        for c in range(channels):
            np.testing.assert_allclose(
                ring_power(matched[i, ..., c]), ring_power(like[i, ..., c].astype(float)), rtol=1e-6
            )
            before, after = np.fft.fft2(images[i, ..., c]), np.fft.fft2(matched[i, ..., c])
            np.testing.assert_allclose(after / np.abs(after), before / np.abs(before), atol=1e-6)
    np.testing.assert_allclose(matched.mean((1, 2)), like.mean((1, 2)))
    np.testing.assert_allclose(matched.std((1, 2)), like.std((1, 2)))  # Parseval


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_becomes_the_others_exactly_before_it_is_rounded(name: str) -> None:
    images, like = natural(5).astype(float), natural(5, seed=1).astype(float)
    matched = matching.MATCHES[name](torch.from_numpy(images), torch.from_numpy(like)).numpy()
    np.testing.assert_allclose(NUMBERS[name](matched), NUMBERS[name](like))
    if name == "contrast":
        np.testing.assert_allclose(matched.mean((1, 2)), images.mean((1, 2)))
    else:
        np.testing.assert_allclose(NUMBERS["contrast"](matched), NUMBERS["contrast"](images))
    if name == "saturation":
        np.testing.assert_allclose(grey(matched), grey(images))


def test_colour_is_the_mean_and_deviation_of_every_channel() -> None:
    images, like = natural(5), natural(5, seed=1)
    matched = matching.match_colour(floats(images), floats(like)).numpy()
    np.testing.assert_allclose(matched.mean((1, 2)), like.mean((1, 2)))
    np.testing.assert_allclose(matched.std((1, 2)), like.std((1, 2)))


@pytest.mark.parametrize("name", matching.MATCHES)
@pytest.mark.parametrize("channels", [1, 3])
def test_flat_images_stay_finite_and_one_matched_to_itself_stays_what_it_is(name: str, channels: int) -> None:
    images = natural(4, channels=channels)
    itself = matching.MATCHES[name](floats(images), floats(images))
    np.testing.assert_allclose(itself.numpy(), images, atol=1e-6)
    flat = torch.full((4, 16, 16, channels), 80.0)
    assert matching.MATCHES[name](flat, floats(images).float()).isfinite().all()
    assert matching.MATCHES[name](floats(images).float(), flat).isfinite().all()


# --------------------------------------------------------------------------------------------- over a set of images


def averages(images: np.ndarray, n: int = 300) -> torch.Tensor:
    """Means of four images: soft, low in contrast and grey."""
    rows = np.random.default_rng(3).integers(0, len(images), (n, 4))
    return torch.from_numpy(images[rows].mean(1).round().astype(np.uint8))


def separation(number: Any, a: np.ndarray, b: np.ndarray) -> float:
    """AUROC by scikit-learn, whichever direction."""
    auroc = roc_auc_score(
        [0] * len(a) + [1] * len(b), np.concatenate([number(a.astype(float)), number(b.astype(float))])
    )
    return max(auroc, 1 - auroc)


def sharpness(x: np.ndarray) -> np.ndarray:
    g = grey(x)
    return np.abs(4 * g[:, 1:-1, 1:-1] - g[:, :-2, 1:-1] - g[:, 2:, 1:-1] - g[:, 1:-1, :-2] - g[:, 1:-1, 2:]).mean(
        (1, 2)
    )


@pytest.mark.parametrize(
    ("name", "number"), [*NUMBERS.items(), ("spectrum", sharpness), ("spectrum", NUMBERS["contrast"])]
)
def test_a_set_can_no_longer_be_told_apart_by_what_was_matched(name: str, number: Any) -> None:
    inliers = natural(300)
    outliers = averages(inliers)
    matched = match(outliers, torch.from_numpy(inliers), (name,), generator()).numpy()
    before, after = (separation(number, inliers, x) for x in (outliers.numpy(), matched))
    if name != "brightness":  # averages are not brighter or darker on the whole, but more alike
        assert before > 0.75
    assert after < 0.56
    assert matched.dtype == np.uint8
    np.testing.assert_allclose(number(matched.astype(float)).std(), number(inliers.astype(float)).std(), rtol=0.2)


def test_every_outlier_takes_after_a_random_image_and_the_seed_decides() -> None:
    inliers = torch.arange(0, 250, 25, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 8, 8, 3)
    outliers = torch.full((500, 8, 8, 3), 9, dtype=torch.uint8)
    first = match(outliers, inliers, ("brightness",), generator(1))
    assert first.equal(match(outliers, inliers, ("brightness",), generator(1)))
    assert not first.equal(match(outliers, inliers, ("brightness",), generator(2)))
    counts = np.bincount(first[:, 0, 0, 0].numpy() // 25, minlength=10)
    assert counts.min() > 25
    assert match(outliers, inliers, (), generator()) is outliers


def test_half_of_a_batch_is_treated_and_the_rest_is_not() -> None:
    images = torch.from_numpy(natural(400))
    batch = match_half(IDBatch(images, torch.zeros(400), torch.arange(400)), ("contrast",), generator())
    same = (batch.images == images).flatten(1).all(1)
    assert 160 < int(same.sum()) < 240
    assert batch.rows is None


def test_names_are_checked_and_put_in_order() -> None:
    assert checked(["coding", "contrast", "spectrum", "contrast"]) == ("spectrum", "contrast", "coding")
    assert checked("spectrum") == ("spectrum",)
    with pytest.raises(UnknownNameError, match="did you mean 'colour'"):
        checked(["color"])
    with pytest.raises(ConfigError, match="'coding' writes and reads JPEGs on the host and is for stores"):
        checked(["coding"], online=True)


# ------------------------------------------------------------------------------------------------------------ coding


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("channels", "options"),
    [(3, {"quality": 60, "subsampling": 2}), (3, {"quality": 91, "subsampling": 0}), (1, {"quality": 40})],
)
def test_recoding_is_what_the_sources_own_encoder_does(channels: int, options: dict[str, Any]) -> None:
    first, second = natural(2, channels=channels)
    (coding,) = probe_codings([jpeg(first, **options)], (16, 16))
    assert coding is not None
    wanted = np.asarray(Image.open(io.BytesIO(jpeg(second, **options))))
    np.testing.assert_array_equal(recode(second, coding).squeeze(), wanted)
    assert not np.array_equal(recode(second, coding), second)


def test_only_jpegs_of_the_inputs_size_have_a_coding(tmp_path: Path) -> None:
    pixels = natural(1)[0]
    png, text = io.BytesIO(), tmp_path / "a.jpg"
    Image.fromarray(pixels).save(png, "PNG")
    text.write_text("not an image")
    others = [png.getvalue(), b"junk", text, tmp_path / "none.jpg", pixels]
    assert probe_codings(others, (16, 16)) == ()
    assert probe_codings([jpeg(pixels)], (32, 32)) == ()
    assert [c is None for c in probe_codings([*others, jpeg(pixels)], (16, 16))] == [True] * 5 + [False]


def test_a_store_codes_its_outliers_as_the_source_is_coded(tmp_path: Path) -> None:
    for i, pixels in enumerate(natural(24)):
        (tmp_path / "data" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / str(i % 2) / f"{i}.jpg").write_bytes(jpeg(pixels, quality=30))
    data = load(tmp_path / "data")
    assert len(data.codings) == 24
    context = PrepareContext(untrained(data, torch.device("cpu")), data, tmp_path, 0, torch.device("cpu"))
    coded = fill(tmp_path / "a", PixelAverage(8, 2), context, 8, match=("coding",), batch_size=8)
    plain = fill(tmp_path / "b", PixelAverage(8, 2), context, 8, batch_size=8)
    assert isinstance(data.codings[0], Coding)
    for outlier, before in zip(*(s.images().array for s in (coded, plain)), strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(outlier, recode(before, data.codings[0]))


# -------------------------------------------------------------------------------------------------------- in training


def test_matched_outliers_keep_their_parents_and_lose_their_rows() -> None:
    batch = IDBatch(torch.from_numpy(natural(30)), torch.arange(30) % 3, torch.arange(30))
    plain, source = PixelAverage(20, 3, k=3), Matched(PixelAverage(20, 3, k=3), ["contrast"])
    made, raw = source.sample(batch, generator(4)), plain.sample(batch, generator(4))
    assert made.parents is not None
    assert raw.parents is not None
    assert made.parents.equal(raw.parents)
    assert made.rows is None
    assert made.origin == "mean of 3 images of different classes, contrast as in-distribution"
    assert not made.data.equal(raw.data)
    assert source.pool() is None


@pytest.mark.parametrize("treat_id", [False, True])
def test_the_rejection_method_matches_and_treats(four: Arrays, tiny: dict[str, Any], treat_id: bool) -> None:
    options = {**tiny, "backbone": "wrn10_2", "epochs": 1, "hidden": 8, "tune_epochs": 1}
    few = four[0][:200], four[1][:200]
    plain = guard.train(few, method="rejection", **options)
    matched = guard.train(few, method="rejection", match="contrast", treat_id=treat_id, **options)
    again = guard.train(few, method="rejection", match=["contrast"], treat_id=treat_id, **options)
    a, b, c = (g.predict(four[0][:20]) for g in (plain, matched, again))
    np.testing.assert_array_equal(a.probabilities, b.probabilities)  # the classifier is frozen
    assert not np.array_equal(a.ood_score, b.ood_score)
    np.testing.assert_array_equal(b.ood_score, c.ood_score)


def test_treating_alone_and_coding_in_every_step_are_refused(four: Arrays) -> None:
    with pytest.raises(ConfigError, match="treat_id=True needs match="):
        guard.train(four, method="rejection", treat_id=True)
    with pytest.raises(ConfigError, match="is for stores"):
        guard.train(four, method="rejection", match="coding")


@pytest.mark.parametrize("side", [(32, 32), (64, 32), (32, 64), (112, 40)])
def test_mean_and_variance_of_long_images_are_matched_too(side: tuple[int, int]) -> None:
    """A slow change along the longer side is part of the variance, and not of the mean."""
    rows = np.linspace(60, 200, side[0])[:, None, None]
    gradients = floats(np.broadcast_to(rows, (*side, 3)).round().astype(np.uint8)[None].repeat(4, 0))
    flat = floats(np.random.default_rng(0).normal(140, 20, (4, *side, 3)).clip(0, 255).astype(np.uint8))
    matched = match_spectrum(gradients, flat)
    for dim in (None, (1, 2, 3)):
        assert matched.mean(dim).numpy() == pytest.approx(flat.mean(dim).numpy(), abs=1.5)
    assert matched.std((1, 2, 3)).numpy() == pytest.approx(flat.std((1, 2, 3)).numpy(), rel=0.15)
