"""What an audit of an outlier store found, as it is kept in the store's card."""

from __future__ import annotations

from guard.record import Record

WARN_AUROC = 0.7


class Histogram(Record):
    """Counts between `edges`; what lies outside is in the end bins."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ClassifierAudit(Record):
    """What a classifier makes of the outliers.

    Attributes:
        guard: whose it is, ``name@digest``.
        score: the ood_score that was measured, and its threshold.
        confident_share: outliers whose largest probability is at least `confident_at`.
        flagged_share: outliers above the threshold.
        auroc: of the ood_score, outliers against held-out in-distribution images.
        held_out: how many of the latter, and whether they were held out from the guard's training.
        outlier_scores, id_scores: histograms over the same bins.
        outlier_distance, id_distance: quantiles (5, 25, 50, 75, 95 %) of the distance to the nearest in-distribution
            image, between unit-length features: of outliers, and of in-distribution images to another one. None
            where the guard shows no features.
    """

    guard: str
    score: str
    threshold: float
    confident_at: float
    confident_share: float
    flagged_share: float
    auroc: float
    held_out: int
    held_out_note: str
    outlier_scores: Histogram
    id_scores: Histogram
    outlier_distance: tuple[float, ...] | None = None
    id_distance: tuple[float, ...] | None = None


class Audit(Record):
    """How outliers differ from in-distribution images in ways that teach a detector the wrong thing.

    Attributes:
        outliers, inliers: images that were looked at.
        separation: low-level statistic -> AUROC folded to [0.5, 1]; 0.5 is what cannot be told apart by it.
        exact_duplicates: outliers equal to an earlier one; exact_copies: equal to an in-distribution image.
        near_duplicates, near_copies: the same within `near_rms` grey levels (root mean square).
        diversity: mean difference of two outliers and of two in-distribution images, in grey levels (root mean
            square); None in stores of earlier versions.
        warnings: sentences, each with what to do.
    """

    outliers: int
    inliers: int
    separation: dict[str, float]
    exact_duplicates: int
    near_duplicates: int
    exact_copies: int
    near_copies: int
    near_rms: float
    diversity: tuple[float, float] | None = None
    classifier: ClassifierAudit | None = None
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """What was found, as (name, words)."""
        rows = [
            (name, f"AUROC {auroc:.3f}" + (f"  (above {WARN_AUROC})" if auroc > WARN_AUROC else ""))
            for name, auroc in self.separation.items()
        ]
        rows += [
            ("duplicates", f"{self.exact_duplicates} exact, {self.near_duplicates} near, of {self.outliers} outliers"),
            ("in-distribution copies", f"{self.exact_copies} exact, {self.near_copies} near"),
        ]
        if self.diversity is not None:
            words = "two outliers differ by {:.1f} grey levels, two in-distribution images by {:.1f}"
            rows.append(("diversity", words.format(*self.diversity)))
        if (c := self.classifier) is not None:
            rows += [
                (f"probability >= {c.confident_at:g}", f"{100 * c.confident_share:.1f} % of outliers, by {c.guard}"),
                ("flagged", f"{100 * c.flagged_share:.1f} % of outliers by score {c.score} (AUROC {c.auroc:.3f})"),
            ]
            if c.outlier_distance and c.id_distance:
                rows.append(
                    (
                        "distance to nearest",
                        f"median {c.outlier_distance[2]:.3f}; {c.id_distance[2]:.3f} between in-distribution images",
                    )
                )
        return rows
