"""What `list_scores` returns: the names, and when printed a table of what each score is and whether it applies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import ConfigError, ModelError
from ..record import Record

if TYPE_CHECKING:
    from ..graph.outputs import FeatureClassifier
    from . import Score
    from .base import Need

_NEEDED: dict[Need, str] = {
    "logits": "the logits",
    "features": "the features before the last layer",
    "weights": "the weights of a last linear layer",
    "extra class": "an extra class for outliers",
    "feature map": "the last feature map",
    "layer maps": "maps of intermediate layers",
    "input gradient": "the gradient of the input",
    "turned images": "turned copies of the image",
    "mirror image": "the mirror image",
}


class ScoreInfo(Record):
    """One score.

    Attributes:
        name: how `guard.fit` and `guard.train` call it.
        equation: ood_score in a line; h features, f logits, p = softmax f, W and b the last layer.
        source: the paper it comes from.
        needs: what it reads of the classifier.
        needs_fit: whether it is fitted to in-distribution data.
        trained_by: the training method (or head) that learns it; "" for a score that any classifier can have.
        learns_from_outliers: whether `guard.fit` trains it too, where it is given ``outliers=``.
        exports: whether it can be part of an exported graph.
        no_export, nearest: where not, why, and the closest score that can.
        caution: where it is known to fail, as the end of a sentence; "" where nothing is.
        applies: whether the classifier that was asked about can have it; None where none was.
        why_not: where not, why, as the end of a sentence that begins with its name.
    """

    name: str
    equation: str
    source: str
    needs: tuple[str, ...]
    needs_fit: bool
    trained_by: str
    learns_from_outliers: bool
    exports: bool
    no_export: str
    nearest: str
    caution: str = ""
    applies: bool | None = None
    why_not: str = ""

    def cells(self) -> tuple[str, ...]:
        """What the table says, as `columns` of the same row."""
        fit = f"trained by {self.trained_by}" if self.trained_by else ("yes" if self.needs_fit else "no")
        fit = "from outliers" if self.learns_from_outliers else fit
        exports = "yes" if self.exports else f"no: {self.no_export}" + (f"; use {self.nearest}" if self.nearest else "")
        suits = f"yes, but {self.caution}" if self.caution else "yes"
        applies = () if self.applies is None else (suits if self.applies else f"no: {self.why_not}",)
        return (self.name, self.equation, ", ".join(self.needs), fit, *applies, exports)

    def columns(self) -> tuple[str, ...]:
        """Headings of `cells`; "applies" is among them where a classifier was asked about."""
        return ("score", "ood_score", "needs", "fit", *(() if self.applies is None else ("applies",)), "exports")


class ScoreList(list[str]):
    """Sorted names of scores; `rows` says more of each, and so does printing it."""

    def __init__(self, rows: Iterable[ScoreInfo]) -> None:
        self.rows = tuple(rows)
        super().__init__(row.name for row in self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "no scores"
        lines = [self.rows[0].columns(), *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def score_table(names: Iterable[str], classifier: FeatureClassifier | None = None) -> ScoreList:
    """The scores of these names, and where there is a classifier whether it can have them."""
    from . import get_score

    return ScoreList(_info(get_score(name), classifier) for name in names)


def why_not(score: Score | type[Score], classifier: FeatureClassifier | None = None, *, outliers: bool = False) -> str:
    """Why this classifier (None: any) cannot have the score, as the end of a sentence that begins with it; else "".

    Args:
        outliers: whether there are some that a score may learn from.
    """
    if score.trained_by and not (outliers and score.learns_from_outliers):
        if score.learns_from_outliers:
            return (
                "learns from outliers: give outliers= images that are none of your classes, a store of guard synth, or "
                "a synthesiser's name such as 'phase_mix'"
            )
        return f"is learned in training; use guard.train(..., method={score.trained_by!r})"
    if classifier is None:
        return ""
    shown = classifier.shows()
    for need in score.needs:
        if need not in shown:
            return f"needs {_NEEDED[need]}; {classifier.why_not(need)}"
    return ""


def cautioned(score: Score | type[Score], classifier: FeatureClassifier | None = None) -> str:
    """Where the score is known to fail, or that it does with this classifier, as the end of a sentence; else ""."""
    head = getattr(classifier, "head", None)
    if score.reads_length and getattr(head, "meaningless_length", False):
        name = getattr(head, "name", "")
        return f"it reads the length of the logits, which head={name!r} leaves meaningless; use msp"
    return score.caution


def check_applies(score: Score, classifier: FeatureClassifier | None = None, *, outliers: bool = False) -> None:
    """Raises ConfigError for a score that only training gives, ModelError for one the classifier cannot have.

    Args:
        outliers: as in `why_not`.
    """
    reason = why_not(score, classifier, outliers=outliers)
    if reason:
        learned = score.trained_by and not outliers
        name = next((part.name for part in score.parts() if part.trained_by), score.name) if learned else score.name
        raise (ConfigError if learned else ModelError)(f"score {name!r} {reason}")


def _info(score: type[Score], classifier: FeatureClassifier | None) -> ScoreInfo:
    reason = "" if classifier is None else why_not(score, classifier, outliers=True)
    return ScoreInfo(
        name=score.name,
        equation=score.equation,
        source=score.source,
        needs=score.needs,
        needs_fit=score.needs_fit,
        trained_by=score.trained_by,
        learns_from_outliers=score.learns_from_outliers,
        exports=not score.no_export,
        no_export=score.no_export,
        nearest=score.nearest,
        caution=cautioned(score, classifier),
        applies=None if classifier is None else not reason,
        why_not=reason,
    )
