"""Numbers that were published, beside which a benchmark prints its own: tables of a YAML file's key `published`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from .record import Record, option

AVERAGE = "average"  # a column: the mean over all near and far OOD sets
PUBLISHED_METRICS = ("auroc", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr", "aupr_in", "aupr_out")

Percent = Annotated[float, Field(ge=0, le=100)]
Cells = tuple[Percent | None, ...]


class PublishedRow(Record):
    """A row of a published table, and which of the benchmark's rows it stands beside: none without `method`.

    Numbers are in percent, one for each of the table's `sets`; null where the table has none.
    """

    row: str = option(..., "What the row is called there.")
    method: str | None = option(None, "The benchmark's method whose numbers are printed beside it.")
    score: str | None = option(None, "The score of that method, as the report calls it.")
    backbone: str | None = option(None, "The backbone; default the table's.")
    head: str | None = option(None, "The head; default any.")
    accuracy: Percent | None = option(None, "In-distribution accuracy.")
    accuracies: Mapping[str, Percent] = option({}, "Accuracy on the sets of data.shifted.")
    auroc: Cells = option((), "AUROC.")
    fpr_at_95_id_tpr: Cells = option((), "OOD accepted where 95 % of in-distribution images are.")
    fpr_at_95_ood_tpr: Cells = option((), "In-distribution images flagged where 95 % of OOD are.")
    aupr_in: Cells = option((), "AUPR with in-distribution images positive.")
    aupr_out: Cells = option((), "AUPR with OOD positive.")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.method is None) != (self.score is None):
            raise ValueError(f"published row {self.row!r} names method={self.method!r} and score={self.score!r}; "
                             "give both, or neither where nothing stands beside it")  # fmt: skip
        return self


class PublishedTable(Record):
    """A table of a paper, or a part of one."""

    table: str = option(..., "What it is called there.")
    source: str = option(..., "The paper, with venue or arXiv number.")
    sets: tuple[str, ...] = option((), "The OOD sets of its columns; average is the mean over near and far ones.")
    backbone: str | None = option(None, "The network of its rows; default any.")
    rows: tuple[PublishedRow, ...] = option(..., "Its rows.", min_length=1)

    @model_validator(mode="after")
    def _as_many_numbers_as_columns(self) -> Self:
        for row in self.rows:
            for metric in PUBLISHED_METRICS:
                if (cells := getattr(row, metric)) and len(cells) != len(self.sets):
                    raise ValueError(
                        f"row {row.row!r} of {self.table} has {len(cells)} numbers of {metric} for {len(self.sets)} "
                        "sets; give one for each, null where there is none"
                    )
        return self
