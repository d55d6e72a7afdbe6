"""A scan as one HTML file that opens from disk: rates, drift, contact sheets, corrupt files, suspicious labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ..calibration.conformal import beta_binomial_interval, beta_interval
from ..evaluation.charts import p_value_histogram
from ..evaluation.page import framed
from ..manifest import Calibration
from ..monitoring.page import curve_chart, evidence, headline
from .pictures import Picture
from .result import CorruptImage, LabelReport, ScannedImage, ScanSummary, label_lines
from .summary import Sample

_CHECK = "M5 12.5l4.5 4.5L19 7.5"
_WARNING = "M12 8v5m0 3.5v.01M12 3l10 18H2z"
_CORRUPT_SHOWN, _PAIRS_SHOWN = 100, 10
_FEW = 20_000  # images; the exact interval for more takes long, and is no other


def rows_shown(summary: ScanSummary) -> list[int]:
    """The rows whose pictures the page shows."""
    lists = [summary.most_ood, summary.most_ordinary]
    if summary.labels is not None:
        lists += [summary.labels.worst, summary.labels.strangest]
    return [image.row for images in lists for image in images]


def render(
    summary: ScanSummary, sample: Sample, pictures: Mapping[int, Picture], calibration: Calibration | None
) -> str:
    """The whole page."""
    parts = [_verdict(summary), _tiles(summary), _notes(summary.notes), _charts(summary, sample, calibration)]
    if summary.labels is not None:
        parts += _labels(summary.labels, pictures)
    parts += [
        _sheet("Most out-of-distribution", "highest ood_score first", summary.most_ood, pictures),
        _sheet("Most ordinary", "lowest ood_score first", summary.most_ordinary, pictures),
        _classes(summary),
        _corrupt(summary.corrupt_images, summary.corrupt),
    ]
    return framed(
        title=f"{summary.data}: scan report",
        header=f"<h1>Scan of {escape(summary.data)} <small>{escape(summary.guard)}</small></h1>",
        main="\n".join(parts),
        footer="<p>Every image is in the Parquet files beside this page, part-*.parquet.</p>",
        style="polyline { fill: none; } "
        "main .photos { grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); } "
        "td.why { white-space: normal; text-align: left; overflow-wrap: anywhere; }",
    )


def _verdict(summary: ScanSummary) -> str:
    if summary.drift is None or not summary.scored:
        return ""
    look, sign = ("bad", _WARNING) if summary.drift.alarm else ("good", _CHECK)
    most = evidence(summary.drift.log10_largest)
    return (
        f'<div class="verdict {look}"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="{sign}"/></svg><div><strong>'
        f"{escape(headline(summary.drift))}</strong><span>The images were compared with the calibration images in "
        f"random order. Evidence at most {most}; the alarm is raised at {1 / summary.drift.alpha:.4g}.</span>"
        "</div></div>"
    )


def _tiles(summary: ScanSummary) -> str:
    tiles = {"images": f"{summary.images}"}
    if summary.ood_rate is not None:
        low, high = 100 * summary.ood_rate_low, 100 * summary.ood_rate_high
        tiles[f"flagged; 95 % interval {low:.2f} to {high:.2f} %"] = f"{100 * summary.ood_rate:.2f} %"
    if summary.target_rate is not None:
        tiles["flagged of ordinary images, as calibrated"] = f"{100 * summary.target_rate:.3g} %"
    if summary.labels is not None:
        tiles["likely mislabelled"] = f"{summary.labels.mislabelled}"
        if summary.labels.off_class is not None:
            tiles[_off_class(summary.labels).lower()] = f"{summary.labels.off_class}"
    tiles["could not be read"] = f"{summary.corrupt}"
    cards = "".join(f'<div class="card tile"><b>{n}</b><small>{escape(t)}</small></div>' for t, n in tiles.items())
    return f'<div class="tiles">{cards}</div>'


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="lead" style="margin-top:1rem">{escape(note)}</p>' for note in notes)


def _charts(summary: ScanSummary, sample: Sample, calibration: Calibration | None) -> str:
    """p-values and the drift test, where there is a calibration."""
    if calibration is None or summary.drift is None or not len(sample.p_value):
        return ""
    bins = 20 if calibration.n >= 200 and not calibration.class_conditional else 10
    a, n = (calibration.n + 1) / bins, len(sample.p_value)
    expected = beta_interval(a, calibration.n + 1 - a)  # of very many images; of few it is wider
    if n <= _FEW:
        low, high = beta_binomial_interval(n, a, calibration.n + 1 - a)
        expected = low / n, high / n
    histogram = p_value_histogram(sample.p_value, expected, calibration.alpha, bins)
    return (
        '<h2>Against the calibration images</h2><div class="grid wide">'
        f'<div class="card"><h3>p-values</h3>{histogram}<p class="soft">Even when the images are of the same kind as '
        "the calibration images. A pile at the left means unusual images.</p></div>"
        f'<div class="card"><h3>Evidence for drift</h3>{curve_chart(summary.drift)}</div></div>'
    )


def _labels(found: LabelReport, pictures: Mapping[int, Picture]) -> list[str]:
    whose = "the features’ doing" if found.folds else "the guard’s own mistakes"
    parts = [
        f'<h2>Labels</h2><p class="lead">{escape(". ".join(label_lines(found)))}. Where few agree, most of these are '
        f"{whose}.</p>",
        _pairs(found),
        _sheet("Likely mislabelled", "given → predicted, surest first", found.worst, pictures, of=found.mislabelled),
    ]
    if found.off_class:
        shown = found.strangest[: found.off_class]
        parts.append(_sheet(_off_class(found), "smallest p-value first", shown, pictures, of=found.off_class))
    return parts


def _off_class(found: LabelReport) -> str:
    return "Least like the others" if found.folds else "Likely of none of the classes"


def _pairs(found: LabelReport) -> str:
    if not found.pairs:
        return ""
    rows = "".join(
        f"<tr><th>{escape(pair.given_class)} → {escape(pair.class_name)}</th><td>{pair.images}</td></tr>"
        for pair in found.pairs[:_PAIRS_SHOWN]
    )
    head = "<tr><th>given → likely</th><th>images</th></tr>"
    return f'<div class="card scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _sheet(
    title: str, order: str, images: Sequence[ScannedImage], pictures: Mapping[int, Picture], of: int | None = None
) -> str:
    """A contact sheet."""
    count = f"{len(images)}{f' of {of}' if of is not None else ''}, {order}" if images else "none"
    figures = "".join(_figure(image, pictures.get(image.row)) for image in images)
    body = f'<div class="card photos">{figures}</div>' if images else ""
    return f'<h2>{escape(title)}</h2><p class="lead">{count}</p>{body}'


def _figure(image: ScannedImage, picture: Picture | None) -> str:
    said = f"{escape(image.class_name)} ({100 * image.probability:.1f} %)"
    if image.given_class is not None and image.given_class != image.class_name:
        said = f"<b>{escape(image.given_class)}</b> → {said}"
    p = "" if image.p_value is None else f", p&nbsp;{image.p_value:.3g}"
    flag = ", flagged" if image.is_ood else ""
    shown = "<p>not readable any more</p>"
    if picture is not None:
        look = " class=tiny" if picture.tiny else ""
        shown = f'<img src="{picture.uri}" alt="{escape(image.path, quote=True)}"{look}>'
    return (
        f"<figure>{shown}<figcaption>{said}<small>score&nbsp;{image.ood_score:.4g}{p}{flag}</small>"
        f"<small>{escape(image.path)}</small></figcaption></figure>"
    )


def _classes(summary: ScanSummary) -> str:
    rows = [c for c in sorted(summary.classes, key=lambda c: -c.images) if c.flag_rate is not None]
    body = "".join(
        f"<tr><th>{escape(c.class_name)}</th><td>{c.images}</td><td>{c.flagged}</td>"
        f"<td>{100 * (c.flag_rate or 0):.2f} %</td>"
        f"<td>{100 * c.flag_rate_low:.2f} to {100 * c.flag_rate_high:.2f} %</td></tr>"
        for c in rows
    )
    head = "<tr><th>predicted class</th><th>images</th><th>flagged</th><th>rate</th><th>95 % interval</th></tr>"
    table = f'<div class="card scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    return f"<h2>By predicted class</h2>{table}" if rows else ""


def _corrupt(images: Iterable[CorruptImage], count: int) -> str:
    if not count:
        return ""
    shown = list(images)[:_CORRUPT_SHOWN]
    body = "".join(f'<tr><th>{escape(c.path)}</th><td class="why">{escape(c.error)}</td></tr>' for c in shown)
    more = f"; {len(shown)} of {count} are shown, all are in the Parquet files" if len(shown) < count else ""
    return (
        f'<h2>Could not be read</h2><p class="lead">{count} images{more}.</p><div class="card scroll">'
        f"<table><tbody>{body}</tbody></table></div>"
    )
