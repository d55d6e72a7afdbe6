"""`write_report`: an `Evaluation` as one HTML file that opens from disk (no scripts, nothing loaded from elsewhere).

The page's frame and colours are in `guard.evaluation.page`, the drawings in `guard.evaluation.charts`, the images in
`guard.evaluation.wrong_answers`.
"""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from ..artefact.files import write_atomic
from ..calibration.conformal import beta_binomial_interval
from ..manifest import Calibration, Manifest
from .charts import COLOURS, RocLine, p_value_histogram, roc_chart, score_histogram, score_range
from .metrics import METRICS, roc_curve
from .page import framed
from .result import Evaluation, Interval, OodResult
from .table import LOWER_IS_BETTER, TITLES, bounds, classes, headline, meaning, percent, percents
from .wrong_answers import Exhibit, Gallery, galleries

_CHECK = "M5 12.5l4.5 4.5L19 7.5"
_WARNING = "M12 8v5m0 3.5v.01M12 3l10 18H2z"

_WORDS = """
<dt>flagged</dt><dd>the image's ood_score is above the guard's threshold; a higher score means more
out-of-distribution</dd>
<dt>false alarms</dt><dd>in-distribution images that are flagged. The threshold was set on held-out images so that the
target is kept; the expected range is the exact 95 % interval for a test set and a calibration set of these sizes</dd>
<dt>calibration error (ECE)</dt><dd>how far the predicted class's probability is from how often it is right, averaged
over 15 bins; 0 is calibrated</dd>
<dt>AUROC</dt><dd>how often an OOD image scores above an in-distribution image; 50 % is chance</dd>
<dt>FPR at 95 % ID TPR</dt><dd>OOD images still accepted where 95 % of in-distribution images are accepted
(the FPR95 of most papers)</dd>
<dt>FPR at 95 % OOD TPR</dt><dd>in-distribution images flagged where 95 % of OOD images are flagged
(the FPR95 of OpenOOD and pytorch-ood)</dd>
<dt>AUPR-In, AUPR-Out</dt><dd>average precision with in-distribution, or OOD, as the positive class; both depend on how
many images of each there are</dd>
<dt>p-value</dt><dd>the share of calibration images that look at least as unusual as this one; even over 0 to 100 % for
images of the same kind</dd>
<dt>near, far</dt><dd>OOD images close to the classes, or unlike any of them; a mean is that of its sets, each counting
the same</dd>
"""


def write_report(evaluation: Evaluation, path: Path) -> Path:
    """Write ``<name>.html`` and, with the numbers, ``<name>.json`` beside it; returns the HTML file's path."""
    write_atomic(path.with_suffix(".json"), evaluation.to_json().encode() + b"\n")
    return write_atomic(path, render(evaluation).encode())


def render(evaluation: Evaluation) -> str:
    """The whole page."""
    sections = [_verdict(evaluation), _tiles(evaluation), _notes(evaluation)]
    if evaluation.ood:
        sections += [_detection_table(evaluation), _histograms(evaluation)]
    sections += [_curves(evaluation), *map(_gallery, galleries(evaluation)), _details(evaluation)]
    return framed(
        title=f"{evaluation.manifest.name}: guard report",
        header=_header(evaluation),
        main="\n".join(sections),
        footer=_footer(evaluation),
    )


def _header(evaluation: Evaluation) -> str:
    m = evaluation.manifest
    name, _, digest = m.identity.partition("@")
    size = f"{m.preprocess.width} × {m.preprocess.height} × {m.preprocess.channels}"
    facts = {
        "method": m.method,
        "backbone": m.backbone,
        "head": m.head,
        "score": m.score_label,
        "threshold": f"{m.threshold:.5g}" + _by_class(m.calibration),
        "target": _target(m.calibration.alpha) if m.calibration else "not calibrated",
        "classes": len(m.class_names),
        "input": size,
        "precision": m.precision,
    }
    items = "".join(f"<li><span>{key}</span> {escape(str(value))}</li>" for key, value in facts.items())
    return f'<h1>{escape(name)} <small>{escape(digest)}</small></h1>\n<ul class="facts">{items}</ul>'


def _verdict(evaluation: Evaluation) -> str:
    result, calibration = evaluation.id, evaluation.manifest.calibration
    good = result.as_expected
    if good is None:  # a class kept the pooled threshold: nothing exact is expected
        good = calibration is not None and result.false_alarm_rate <= calibration.alpha
    sentence = headline(evaluation)
    return (
        f'<div class="verdict {"good" if good else "bad"}"><svg viewBox="0 0 24 24" aria-hidden="true">'
        f'<path d="{_CHECK if good else _WARNING}"/></svg><div><strong>This guard {escape(sentence)}</strong>'
        f"<span>{escape(_capital(meaning(evaluation)))}</span></div></div>"
    )


def _tiles(evaluation: Evaluation) -> str:
    result, calibration = evaluation.id, evaluation.manifest.calibration
    accepted = "" if math.isnan(result.accuracy_accepted) else f"{percent(result.accuracy_accepted, 2)} if accepted"
    tiles = [
        _tile("accuracy", percent(result.accuracy, 2), f"{result.images} images of {result.name}", accepted),
    ]
    if calibration:
        target = f"target {_target(calibration.alpha)}"
        target += f", expected {percents(result.expected)}" if result.expected else ""
        tiles.append(
            _tile("false alarms", percent(result.false_alarm_rate), target, f"{calibration.n} calibration images")
        )
    for near in (False, True):
        if mean := evaluation.mean(near):
            name, count = "near" if near else "far", sum(r.near == near for r in evaluation.ood)
            sets = f"mean of {count} sets" if count > 1 else next(r.name for r in evaluation.ood if r.near == near)
            tiles.append(
                _tile(f"{name}-OOD flagged", percent(mean["flagged"]), f"AUROC {percent(mean['auroc'], 2)}", sets)
            )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(title: str, number: str, *lines: str) -> str:
    below = "".join(f"<small>{escape(line)}</small>" for line in lines if line)
    return f'<div class="card tile"><span class="soft">{escape(title)}</span><b>{escape(number)}</b>{below}</div>'


def _notes(evaluation: Evaluation) -> str:
    corrupt = sum(r.corrupt for r in evaluation.ood) + evaluation.id.corrupt
    notes = [*evaluation.notes, *([f"Skipped because they could not be read: {corrupt}."] if corrupt else [])]
    return "".join(f'<p class="lead" style="margin-top:1rem">{escape(note)}</p>' for note in notes)


def _detection_table(evaluation: Evaluation) -> str:
    heads = "".join(
        f'<th scope="col">{TITLES[name].replace(" at ", "<br>at ")} {"↓" if name in LOWER_IS_BETTER else "↑"}</th>'
        for name in METRICS
    )
    rows = []
    for near in (False, True):
        for number, r in enumerate(evaluation.ood):
            if r.near == near:
                rows.append(_row(r, number, bool(evaluation.bootstrap)))
        if mean := evaluation.mean(near):
            cells = "".join(_cell(mean[name]) for name in (*METRICS, "flagged"))
            rows.append(f'<tr class="mean"><th scope="row">mean of {"near" if near else "far"}-OOD</th>{cells}</tr>')
    intervals = " Below each number is its 95 % interval." if evaluation.bootstrap else ""
    return (
        "<h2>Detection</h2>"
        f'<p class="lead">In percent, each set against the {evaluation.id.images} in-distribution images.'
        f"{intervals}</p>"
        '<div class="card scroll"><table><thead><tr><th scope="col">OOD set</th>'
        f'{heads}<th scope="col">flagged ↑</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _row(r: OodResult, number: int, intervals: bool) -> str:
    cells = "".join(_cell(getattr(r.metrics, name), r.intervals.get(name)) for name in METRICS)
    flagged = _cell(r.flagged, r.flagged_interval if intervals else None)
    kind = "near" if r.near else "far"
    return (
        f'<tr><th scope="row">{_swatch(number)}{escape(r.name)}<small>{kind}, {r.images} images</small></th>'
        f"{cells}{flagged}</tr>"
    )


def _cell(value: float, interval: Interval | None = None) -> str:
    below = f"<small>{bounds(interval)}</small>" if interval else ""
    return f"<td>{100 * value:.1f}{below}</td>"


def _histograms(evaluation: Evaluation) -> str:
    id_scores, threshold = evaluation.id.verdicts.ood_score, evaluation.manifest.threshold
    extent = score_range(id_scores, [r.verdicts.ood_score for r in evaluation.ood], threshold)
    cards = []
    for number, r in enumerate(evaluation.ood):
        chart = score_histogram(id_scores, r.verdicts.ood_score, threshold, extent, r.name, number % COLOURS)
        legend = (
            f'<ul class="legend"><li><span class="swatch id"></span>in-distribution</li>'
            f"<li>{_swatch(number)}{escape(r.name)}: {percent(r.flagged)} flagged</li></ul>"
        )
        cards.append(f'<div class="card"><h3>{escape(r.name)}</h3>{chart}{legend}</div>')
    return (
        "<h2>Scores</h2>"
        '<p class="lead">The less two shapes overlap, the better they are told apart. All charts have one scale; '
        "scores beyond it are counted in its end bins.</p>"
        f'<div class="grid{" wide" if len(cards) in (1, 2, 4) else ""}">{"".join(cards)}</div>'
    )


def _curves(evaluation: Evaluation) -> str:
    """ROC curves where there are OOD sets, p-values where there is a calibration."""
    cards = []
    result, calibration = evaluation.id, evaluation.manifest.calibration
    if evaluation.ood:
        lines = []
        for number, r in enumerate(evaluation.ood):
            curve = roc_curve(result.verdicts.ood_score, r.verdicts.ood_score)
            point = (result.false_alarm_rate, r.flagged)
            lines.append(RocLine(r.name, number, curve.false_alarms, curve.detected, point))
        legend = "".join(
            f"<li>{_swatch(number)}{escape(r.name)}: AUROC {percent(r.metrics.auroc)}</li>"
            for number, r in enumerate(evaluation.ood)
        )
        cards.append(
            f'<div class="card"><h3>ROC curves; the dots are the guard’s threshold</h3>{roc_chart(lines)}'
            f'<ul class="legend">{legend}</ul></div>'
        )
    if calibration:
        # the p-values of a class with few images lie on a coarse grid
        bins = 20 if calibration.n >= 200 and result.images >= 200 and not calibration.class_conditional else 10
        a = (calibration.n + 1) / bins
        low, high = beta_binomial_interval(result.images, a, calibration.n + 1 - a)
        expected = low / result.images, high / result.images
        chart = p_value_histogram(result.verdicts.p_value, expected, calibration.alpha, bins)
        cards.append(
            f'<div class="card"><h3>p-values of in-distribution test images</h3>{chart}'
            '<p class="soft" style="font-size:.8125rem;margin:.5rem 0 0">Even, within the grey band, when they are of '
            "the same kind as the calibration images. A pile at the left means unusual images.</p></div>"
        )
    return f'<h2>Curves</h2><div class="grid wide">{"".join(cards)}</div>' if cards else ""


def _gallery(gallery: Gallery) -> str:
    if gallery.total == 0:
        body = ""
    else:
        body = f'<div class="card photos">{"".join(map(_figure, gallery.exhibits))}</div>'
    shown = len(gallery.exhibits)
    count = f"{shown} of {gallery.total}, {gallery.order}" if shown else "none"
    return f'<h2>{escape(gallery.title)}</h2><p class="lead">{count}</p>{body}'


def _figure(exhibit: Exhibit) -> str:
    v = exhibit.verdict
    p = "" if math.isnan(v.p_value) else f", p&nbsp;{v.p_value:.3g}"
    alt = escape(f"{exhibit.truth}, taken for {v.class_name}", quote=True)
    return (
        f'<figure><img src="{exhibit.uri}" alt="{alt}" loading="lazy"{" class=tiny" if exhibit.tiny else ""}>'
        f"<figcaption><b>{escape(exhibit.truth)}</b> → {escape(v.class_name)} ({percent(v.probability)})"
        f"<small>score&nbsp;{v.ood_score:.4g}{p}</small></figcaption></figure>"
    )


def _details(evaluation: Evaluation) -> str:
    m = evaluation.manifest
    rows = {
        "guard": m.identity,
        "classes": ", ".join(m.class_names[:50]) + (" …" if len(m.class_names) > 50 else ""),
        "options": ", ".join(f"{key} {value}" for key, value in {**m.method_options, **m.score_options}.items()),
        "made from": "; ".join(
            f"{card.name} ({card.fingerprint}): {card.images} images"
            + (f" ({', '.join(f'{name} {n}' for name, n in card.splits.items())})" if card.splits else "")
            + (f" (given as {' and '.join(card.given_as)} images)" if card.given_as else "")
            for card in m.data
        ),
        "calibration": _calibration(m),
        "false alarms": classes(evaluation),
        "probabilities": f"calibration error (ECE) {percent(evaluation.id.calibration_error)}" + _temperature(m),
        "made": m.created,
        "seed": str(m.seed),
        "packages": ", ".join(f"{name} {version}" for name, version in m.versions.items()),
    }
    facts = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows.items() if value)
    return (
        f'<h2>Details</h2><div class="card"><details style="margin:0"><summary>What the words mean</summary>'
        f"<dl>{_WORDS}</dl></details><details><summary>This guard</summary><dl>{facts}</dl></details></div>"
    )


def _calibration(m: Manifest) -> str:
    calibration = m.calibration
    if calibration is None:
        return ""
    if calibration.class_conditional:
        own = sum(interval is not None for interval in calibration.class_intervals)
        return (
            f"{calibration.n} images; {own} of {len(m.class_names)} predicted classes have a threshold of their own, "
            f"{calibration.class_thresholds.min():.5g} to {calibration.class_thresholds.max():.5g}"
        )
    interval = percents((calibration.rate_low, calibration.rate_high))
    return f"{calibration.n} images; false-alarm rate over unlimited traffic {interval} with 95 % probability"


def _by_class(calibration: Calibration | None) -> str:
    return " + its class’s offset" if calibration and calibration.class_conditional else ""


def _temperature(m: Manifest) -> str:
    return f", with temperature {m.temperature.value:.4g}" if m.temperature else ""


def _footer(evaluation: Evaluation) -> str:
    if not evaluation.bootstrap or not evaluation.ood:
        return "Made by ood-guard."
    return (
        f"Made by ood-guard. Intervals: {evaluation.bootstrap} bootstrap resamples of the test images (seed "
        f"{evaluation.seed}); shares by Wilson’s interval."
    )


def _swatch(number: int) -> str:
    return f'<span class="swatch c{number % COLOURS}"></span>'


def _target(share: float) -> str:
    return f"{100 * share:.4g} %"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:] + "." if sentence else ""
