"""The project's English: the field's own terms in natural order, British spelling, sources that a reader can find."""

from __future__ import annotations

import re

import pytest

from tests.structure.project_files import ROOT, project_files

HERE = "tests/structure/test_words.py"
RESULTS = "benchmarks/results/"  # what a machine wrote

THINGS = "folder|file|number|option|class|image|directory|guard|score|method|head|store|model"

AVOIDED: dict[str, tuple[str, str]] = {  # (what is not written, what is)
    "citation": (r"(?<!docs/)\bmethods\.md [A-Z]?\d|\bdesign(\.md)?, section", "venue and year"),
    "inversion": (rf"(?<!there )\b(is|are|was|be) no ({THINGS})s?\b", "is not a ..."),
    "away": (r"\b(leaves?|leaving) [^.;:]{1,40} away\b|\bleft away\b", "omit, drop"),
    "one's own": (r"\bone's own (diffusion|model|encoder)", "the built-in diffusion model; a model of your own"),
    "honest": (r"\b[Hh]onest", "calibrated, of probabilities; else what is measured"),
    "aloud": (r"\b(said|says|say) aloud\b", "logged"),
    "trivial": (r"\btrivial numbers?\b", "low-level statistic"),
    "regularise": (r"(?i)(?<!\.)regulariz", "regularis..."),
    "normalise": (r"(?<!\.)(?<!do_)normaliz(?!e[:=(])|\b[Nn]ormalization", "normalis..."),
    "behaviour": (r"\b[Bb]ehavior|(?<!sklearn\.)\b[Nn]eighbor", "behaviour, neighbour"),
    "path": (r"(?<![\w.])/(work|home|root|Users)/\w|(?<![\w.])/tmp/\w", "no path of one machine"),
}


def found(key: str, text: str) -> list[str]:
    pattern = re.compile(AVOIDED[key][0])
    return [f"{i}: {line.strip()}" for i, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


@pytest.mark.parametrize("key", AVOIDED)
def test_words(key: str) -> None:
    paths = [p for p in project_files(".py", ".md", ".toml", ".html") if p != HERE and not p.startswith(RESULTS)]
    assert len(paths) > 300
    lines = [f"{path}:{line}" for path in paths for line in found(key, (ROOT / path).read_text())]
    assert not lines, f"write {AVOIDED[key][1]}:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("line", "avoided"),
    [
        ("as in methods.md B2", "citation"),
        ("see docs/methods.md 2nd part", None),
        ("'x' is no folder", "inversion"),
        ("there is no folder 'x'", None),
        ("or leave temperature= away", "away"),
        ("normalized = F.normalize(x)", "normalise"),
        ("F.normalize(x); transforms.Normalize(); KNN(normalize=True); BatchNormalization; do_normalize", None),
        ("class Regularizer:", "regularise"),
        ("from sklearn.neighbors import NearestNeighbors", None),
        ("the nearest neighbor", "behaviour"),
        ("/home/me/data", "path"),
        ("runs/home/data", None),
    ],
)
def test_the_patterns_see_what_they_should(line: str, avoided: str | None) -> None:
    assert [key for key in AVOIDED if found(key, line)] == ([avoided] if avoided else [])
