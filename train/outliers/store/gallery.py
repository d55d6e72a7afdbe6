"""``gallery.html``: a store as one page that opens from disk: its audit, and a contact sheet for every parent class.

Frame, colours and charts are those of the evaluation report (`guard.evaluation.report`).
"""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from guard.artefact.files import write_atomic
from guard.data import ImageData
from guard.evaluation.charts import COLOURS, score_histogram
from guard.evaluation.wrong_answers import thumbnail

from ..audit.record import WARN_AUROC, Audit, Histogram
from .card import Card
from .shards import read_made
from .store import Store

NAME = "gallery.html"
COLUMNS, ROWS = 12, 3  # outliers on a sheet
ID_COLUMNS = 6
MOST_CLASSES = 20
THUMBNAIL = 96  # pixels of a larger image's longer side
_SHOWN = 2  # times its size, at most, that a sheet of small images is shown
_GAP = 2

_STYLE = """<style>
.sheets { display: grid; grid-template-columns: minmax(0, 6fr) minmax(0, 12fr); gap: .5rem 1.25rem; }
.sheets figure { margin: 0; }
.sheets img { width: 100%; height: auto; aspect-ratio: auto; border: 0; border-radius: 0; image-rendering: pixelated; }
.sheet { margin-top: 1rem; }
.side { align-content: start; grid-template-columns: minmax(0, 1fr); }
td.bar { width: 45%; min-width: 8rem; }
td.bar div { height: .8rem; margin-top: .35rem; border-radius: .2rem; background: var(--grid); position: relative; }
td.bar i { position: absolute; inset: 0 auto 0 0; border-radius: .2rem; background: var(--id); }
td.bar i.high { background: var(--bad); }
td.bar b { position: absolute; top: -.2rem; bottom: -.2rem; border-left: 2px solid var(--text); }
@media (max-width: 560px) { .sheets { grid-template-columns: minmax(0, 1fr); } td.bar { display: none; } }
</style>"""


def write_gallery(store: Store, inliers: ImageData) -> Path:
    """Write the store's page; `inliers` are shown beside the outliers made from their classes."""
    return write_atomic(store.folder / NAME, render(store, inliers).encode())


def render(store: Store, inliers: ImageData) -> str:
    """The whole page."""
    card, audit = store.card, store.card.audit
    sections = [_warnings(audit), _separation(audit), _classifier(audit), _sheets(store, inliers), _details(card)]
    colours = "\n".join(f".c{i} {{ stroke: var(--c{i}); --own: var(--c{i}); }}" for i in range(COLOURS))
    fills = ", ".join(f".area.c{i}" for i in range(COLOURS))
    return Template(files("guard.evaluation").joinpath("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{store.folder.name}: outliers"),
        colours=f"{colours}\n{fills} {{ fill: var(--own); }}",
        header=_STYLE + _header(store),
        main=re.sub(r"(?<=\d) %", "&nbsp;%", "\n".join(filter(None, sections))),
        footer="Made by ood-guard.",
    )


def _header(store: Store) -> str:
    card = store.card
    facts = {
        "synthesiser": card.synthesiser,
        **{key: value for key, value in card.options.items() if not isinstance(value, dict)},
        "outliers": card.count,
        "matched in": ", ".join(card.match) or "nothing",
        "from": f"{card.data.images} images of {card.data.name}",
        "size": f"{card.width} × {card.height} × {card.channels}",
        "seed": card.seed,
    }
    items = "".join(f"<li><span>{escape(str(k))}</span> {escape(str(v))}</li>" for k, v in facts.items())
    return f'<h1>{escape(store.folder.resolve().name)} <small>outliers</small></h1>\n<ul class="facts">{items}</ul>'


def _warnings(audit: Audit | None) -> str:
    if audit is None:
        return ""
    good = not audit.warnings
    path = "M5 12.5l4.5 4.5L19 7.5" if good else "M12 8v5m0 3.5v.01M12 3l10 18H2z"
    title = "No low-level statistic gives these outliers away" if good else "These outliers teach a low-level statistic"
    lines = "".join(f"<span>{escape(w[:1].upper() + w[1:])}.</span><br>" for w in audit.warnings)
    lines = lines or f"<span>Each alone reaches an AUROC of at most {WARN_AUROC}, and there are no copies.</span>"
    return (
        f'<div class="verdict {"good" if good else "bad"}"><svg viewBox="0 0 24 24" aria-hidden="true">'
        f'<path d="{path}"/></svg><div><strong>{title}</strong>{lines}</div></div>'
    )


def _separation(audit: Audit | None) -> str:
    if audit is None:
        return ""
    rows = []
    for name, auroc in audit.separation.items():
        high = " class=high" if auroc > WARN_AUROC else ""
        bar = (
            f'<div><i{high} style="width:{100 * (2 * auroc - 1):.1f}%"></i>'
            f'<b style="left:{100 * (2 * WARN_AUROC - 1):.0f}%"></b></div>'
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td>{auroc:.3f}</td><td class="bar">{bar}</td></tr>')
    return (
        "<h2>What tells them apart without looking at them</h2>"
        f'<p class="lead">AUROC of one number of each image, {audit.outliers} outliers against {audit.inliers} '
        f"in-distribution images, whichever is larger: 0.5 is not at all. A detector learns what is above the line "
        f"({WARN_AUROC}) before anything else.</p>"
        '<div class="card scroll"><table><thead><tr><th scope="col">number</th><th scope="col">AUROC</th>'
        f'<th scope="col"></th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="lead" style="margin-top:.5rem">Of {audit.outliers} outliers {audit.exact_duplicates} repeat an '
        f"earlier one and {audit.near_duplicates} nearly do; {audit.exact_copies} are copies of in-distribution images "
        f"and {audit.near_copies} nearly are (within {audit.near_rms:g} grey levels).</p>"
    )


def _classifier(audit: Audit | None) -> str:
    if audit is None or audit.classifier is None:
        return ""
    c = audit.classifier
    tiles = [
        _tile(
            "still taken for a class",
            f"{100 * c.confident_share:.1f} %",
            f"probability of at least {c.confident_at:g}",
        ),
        _tile("flagged", f"{100 * c.flagged_share:.1f} %", f"by {c.score}", f"AUROC {100 * c.auroc:.1f} %"),
    ]
    if c.outlier_distance and c.id_distance:
        tiles.append(
            _tile(
                "distance to the nearest",
                f"{c.outlier_distance[2]:.2f}",
                f"{c.id_distance[2]:.2f} for an in-distribution image",
                "medians, unit-length features",
            )
        )
    edges = c.outlier_scores.edges
    chart = score_histogram(
        _values(c.id_scores), _values(c.outlier_scores), c.threshold, (edges[0], edges[-1]), "outliers", 0
    )
    legend = (
        '<ul class="legend"><li><span class="swatch id"></span>in-distribution'
        f"</li><li><span class='swatch c0'></span>outliers: {100 * c.flagged_share:.1f} % flagged</li></ul>"
    )
    return (
        "<h2>What a classifier makes of them</h2>"
        f'<p class="lead">{escape(c.guard)}, with {c.held_out} in-distribution images {escape(c.held_out_note)}.</p>'
        f'<div class="grid wide"><div class="card"><h3>Scores</h3>{chart}{legend}</div>'
        f'<div class="tiles side">{"".join(tiles)}</div></div>'
    )


def _values(histogram: Histogram) -> np.ndarray:
    """Values that give this histogram again: each bin's centre as often as it was counted."""
    edges = np.array(histogram.edges)
    return np.repeat((edges[:-1] + edges[1:]) / 2, histogram.counts)


def _tile(title: str, number: str, *lines: str) -> str:
    below = "".join(f"<small>{escape(line)}</small>" for line in lines)
    return f'<div class="card tile"><span class="soft">{escape(title)}</span><b>{escape(number)}</b>{below}</div>'


# ------------------------------------------------------------------------------------------------------ contact sheets


def _sheets(store: Store, inliers: ImageData) -> str:
    outliers = store.images()
    parents, origins = read_made(store.paths())
    ways = "; ".join(dict.fromkeys(origins))
    names = store.card.class_names
    by_class = [[i for i, classes in enumerate(parents) if c in classes] for c in range(len(names))]
    head = f'<h2>Images</h2><p class="lead">How they were made: {escape(ways)}.</p>'
    if not any(by_class):  # made from nothing in particular
        picked = _spread(len(outliers), COLUMNS * ROWS)
        return head + _pair(inliers, _spread(len(inliers), ID_COLUMNS * ROWS), outliers, picked, "all classes", "")
    assert inliers.labels is not None  # guard.synth loads labelled images
    cards = []
    for c, rows in enumerate(by_class[:MOST_CLASSES]):
        own = np.flatnonzero(inliers.labels == c)
        mine = np.array(rows, np.int64)[_spread(len(rows), COLUMNS * ROWS)]
        shared = sum(len(parents[i]) > 1 for i in rows)
        several = f", {'all' if shared == len(rows) else shared} of several classes" if shared else ""
        note = f"{len(rows)} outliers{several}"
        cards.append(_pair(inliers, own[_spread(len(own), ID_COLUMNS * ROWS)], outliers, mine, names[c], note))
    more = f'<p class="lead">and {len(names) - MOST_CLASSES} more classes</p>' if len(names) > MOST_CLASSES else ""
    return head + "".join(cards) + more


def _pair(inliers: ImageData, own: np.ndarray, outliers: ImageData, picked: np.ndarray, title: str, note: str) -> str:
    left = _figure(inliers, own, ID_COLUMNS, f"in-distribution images of {title}")
    right = _figure(outliers, picked, COLUMNS, f"outliers made from {title}") if len(picked) else "none"
    return (
        f'<div class="card sheet"><h3>{escape(title)} <small class="soft">{escape(note)}</small></h3>'
        f'<div class="sheets">{left}{right}</div></div>'
    )


def _figure(data: ImageData, rows: np.ndarray, columns: int, what: str) -> str:
    picture = sheet(data.take(rows), columns)
    widest = columns * (min(THUMBNAIL, data.preprocess.width) * _SHOWN + _GAP)
    uri = thumbnail(picture, max(picture.shape))
    return (
        f'<figure><img src="{uri}" alt="{escape(what, quote=True)}" style="max-width:{widest}px">'
        f'<figcaption class="soft">{escape(what)}</figcaption></figure>'
    )


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (n, H, W, channels) side by side, row after row, a light gap between; (h, w, channels)."""
    images = np.stack([_reduced(image) for image in images]) if max(images.shape[1:3]) > THUMBNAIL else images
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    out = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 232, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        out[top : top + height, left : left + width] = image
    return out


def _reduced(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def _spread(n: int, most: int) -> np.ndarray:
    """At most so many evenly spaced numbers below n."""
    return np.unique(np.linspace(0, max(n - 1, 0), min(n, most)).round().astype(np.int64))


def _details(card: Card) -> str:
    rows = {
        "data": f"{card.data.name} ({card.data.fingerprint}), {card.data.images} images, part {card.data.rows}",
        "classes": ", ".join(card.class_names[:50]) + (" …" if len(card.class_names) > 50 else ""),
        "draws": f"{card.per_draw} outliers of {card.batch_size} in-distribution images each",
        "shards": f"{len(card.shards())} of {card.shard_size} images",
        "classifier used": card.classifier or "",
        "packages": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }
    facts = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows.items() if value)
    return (
        '<h2>Details</h2><div class="card"><details style="margin:0"><summary>This store</summary>'
        f"<dl>{facts}</dl></details></div>"
    )
