"""Several scores in one, through their calibration p-values. Source: Fisher 1925 and Tippett 1931, who combine tests.

    e_j = -log p_j(s_j),   p_j(s) = share of held-out in-distribution images whose score j is at least s
    fisher   ood_score = sum_j e_j          tippett   ood_score = max_j e_j

Scores of any scale become comparable: e_j = 3 means that 5 % of in-distribution images are as far out by score j. Each
e_j is a piecewise linear function of s_j through quantiles of held-out scores; above the 95 % quantile, where few
images are left, the tail is exponential with the mean excess there (peaks over threshold), so that the order of far
outliers is kept. The scores are not independent, so the sum is not a chi-square; the guard's threshold and p-value come
from its own calibration on other images, as for every score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..heads import LastLayer
from ..record import option
from .base import Need, Score, ScoreOptions, create_score, get_score, register_score, unfitted
from .reservoir import Reservoir

TAIL = 0.05  # share of the held-out images above which the tail begins
KNOTS = 128
CLOSEST = 1e-3  # of the range of the knots
_IN_ITS_PLACE = {"feature map", "turned images", "layer maps"}  # what `feature_map` can be
_SAMPLE = 4000  # fitting rows kept for a table, where no held-out images are given


def surprise_table(scores: Tensor) -> Tensor:
    """Knots and values (2, K + 1) of s -> -log p(s), from held-out scores (n,), n >= 2, float64.

    Columns are (score, -log p) with both rising, from p = 1 to p = TAIL; the last one says how the line continues: its
    direction is that of an exponential tail with the mean excess over the knot before it.
    """
    ordered = scores.double().sort().values
    n = len(ordered)
    wanted = torch.linspace(0, 1 - TAIL, KNOTS, dtype=torch.float64, device=ordered.device)
    knots = _apart(ordered[(wanted * (n - 1)).round().long()].unique())
    at_least = n - torch.searchsorted(ordered, knots)  # how many are as large
    surprise = -((at_least + 1).double() / (n + 1)).log()
    excess = ordered[ordered > knots[-1]] - knots[-1]
    spread = (ordered[-1] - ordered[0]) / n
    step = excess.mean() if len(excess) else spread
    step = step.clamp_min(1e-6 * ordered.abs().max()).clamp_min(1e-12)
    return torch.stack([torch.cat([knots, knots[-1:] + step]), torch.cat([surprise, surprise[-1:] + 1])])


def _apart(knots: Tensor) -> Tensor:
    """Rising knots without those nearer than a thousandth of their range to the one before: between two that nearly
    coincide -log p would rise like a wall, and rounding be seen. The ends stay."""
    least = (knots[-1] - knots[0]) * CLOSEST
    kept = [knots[0]]
    for knot in knots[1:-1]:
        if knot - kept[-1] >= least and knots[-1] - knot >= least:
            kept.append(knot)
    return torch.stack([*kept, knots[-1]]) if len(knots) > 1 else knots


def surprise(scores: Tensor, table: Tensor) -> Tensor:
    """-log p of scores (..., N), each row by its own `surprise_table` (..., 2, K + 1): linear between knots and beyond
    the last, 0 slope below."""
    knots, values = table[..., 0, :], table[..., 1, :]
    rise = (values[..., 1:] - values[..., :-1]) / (knots[..., 1:] - knots[..., :-1])
    above = (scores[..., :, None] >= knots[..., None, 1:-1]).sum(-1)  # the segment; the last one has no end
    offset = (scores - knots.gather(-1, above)).clamp_min(0)
    return values.gather(-1, above) + rise.gather(-1, above) * offset


@register_score
class Combined(Score):
    """ood_score = sum (or maximum) over scores j of -log p_j, p_j the share of held-out images as far out by j."""

    name: ClassVar[str] = "combined"
    equation: ClassVar[str] = "sum_j -log p_j(s_j)"
    source: ClassVar[str] = "Fisher 1925; Tippett 1931"
    needs: tuple[Need, ...] = ("logits", "features", "weights")  # type: ignore[misc]  # its own parts', once made
    needs_fit: ClassVar[bool] = True
    takes_held_out: ClassVar[bool] = True

    class Options(ScoreOptions):
        parts: tuple[str, ...] = option(
            ("energy", "vim"),
            "Names of the scores that are combined, at least two; score='energy+vim' is short for it.",
            common=True,
            min_length=2,
        )
        part_options: dict[str, dict[str, Any]] = option(
            {}, "Options of the parts by name, such as {'knn': {'k': 10}}; see: guard scores NAME."
        )
        rule: Literal["fisher", "tippett"] = option(
            "fisher", "fisher adds the parts' -log p, tippett takes the largest.", common=True
        )
        seed: int = option(0, "Seed of the sample of fitting images that stands in where none are held out.")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        o = self.options
        if len(set(o.parts)) < len(o.parts):
            raise ConfigError(f"score 'combined': each part once, got {', '.join(o.parts)}")
        for name in o.part_options:
            if name not in o.parts:
                raise ConfigError(f"score 'combined' has options for {name!r}, which is none of {', '.join(o.parts)}")
        for name in o.parts:
            kind = get_score(name)
            if kind is Combined or kind.no_export:
                usable = "scores of features, logits and feature maps that export"
                raise ConfigError(f"score 'combined' cannot have {name!r} as a part; it combines {usable}")
        parts = [create_score(name, **o.part_options.get(name, {})) for name in o.parts]
        self.scores = nn.ModuleList(parts)
        for part in parts:
            if part.mirrored:
                raise ConfigError(f"score 'combined': mirror=True is for all parts, not for {part.name!r} alone")
            if self.mirrored and not isinstance(part.options, ScoreOptions):
                raise ConfigError(f"score 'combined' cannot have mirror=True with {part.name!r}; leave one of them out")
        own = ("mirror image",) if self.mirrored else ()
        self.needs = tuple(dict.fromkeys(need for part in parts for need in (*part.needs, *own)))
        self._check_maps()
        self.layers = next((part.layers for part in parts if "layer maps" in part.needs), ())
        self.trained_by = next((part.trained_by for part in parts if part.trained_by), "")  # type: ignore[misc]
        self.learns_from_outliers = {True} == {  # type: ignore[misc]
            part.learns_from_outliers for part in parts if part.trained_by
        }
        self.reads_length = any(part.reads_length for part in parts)  # type: ignore[misc]
        self.uses_map = any(part.uses_map for part in parts)
        self.register_buffer("tables", torch.zeros(0))

    tables: Tensor

    def _check_maps(self) -> None:
        """Raises ConfigError for parts that read different things in place of the last feature map."""
        reading = {part.name: _IN_ITS_PLACE & set(part.needs) for part in self.parts()}
        own = {name: needs for name, needs in reading.items() if needs}
        if len(own) > 1 and ("layer maps" in self.needs or len(set().union(*own.values())) > 1):
            told = " and ".join(f"{name!r} ({', '.join(sorted(needs))})" for name, needs in own.items())
            hint = "; give rotation part_options={'rotation': {'passes': 1}}" if "turned images" in self.needs else ""
            raise ConfigError(f"score 'combined' cannot have {told} together: one thing can be read beside{hint}")

    def choose(self, ends: tuple[str, ...]) -> tuple[str, ...]:
        return self._watching().choose(ends)

    def watch(self, layers: Sequence[str], widths: Sequence[int]) -> None:
        watching = self._watching()
        watching.watch(layers, widths)
        self.layers = watching.layers
        told = {**self.options.part_options.get(watching.name, {}), "layers": list(self.layers)}
        options = {**self.options.part_options, watching.name: told}
        self.options = self.options.model_copy(update={"part_options": options})  # saved with the guard

    def summarise(self, layer_map: Tensor) -> Tensor:
        return self._watching().summarise(layer_map)

    def _watching(self) -> Score:
        return next(part for part in self.parts() if "layer maps" in part.needs)

    def parts(self) -> list[Score]:
        return list(self.scores)  # type: ignore[arg-type]

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        for part in self.parts():
            if not part.trained_by:
                part.begin(num_features, num_classes, last_layer)
        self._sample = [Reservoir(_SAMPLE, self.options.seed) for _ in range(3)]
        self._seen = 0

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        for part in self.parts():
            if part.needs_fit:
                part.update(features, logits, labels, feature_map)
        outputs = (features, logits, feature_map if self.uses_map else None)
        for reservoir, rows in zip(self._sample, outputs, strict=True):  # of one seed, so the same rows
            if rows is not None:
                reservoir.add(rows.detach().float())
        self._seen += len(features)

    def finish(self) -> None:
        if not self._seen:
            raise DataError("score 'combined' saw no data to fit on")
        for part in self.parts():
            if part.needs_fit:
                part.finish()
            part.to(self._sample[0].rows().device)
        features, logits, feature_map = (reservoir.rows() for reservoir in self._sample)
        del self._sample
        self.settle(features, logits, feature_map)

    @torch.no_grad()
    def settle(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> None:
        """Take the p-values from these in-distribution images, at least 2."""
        tables = [surprise_table(scores) for scores in self._scores(features, logits, feature_map)]
        longest = max(table.shape[1] for table in tables)
        self.tables = torch.stack([_lengthened(table, longest) for table in tables]).float()

    def _scores(self, features: Tensor, logits: Tensor, feature_map: Tensor | None) -> list[Tensor]:
        return [part(features, logits, feature_map) for part in self.parts()]

    def allocate(self, shapes: dict[str, tuple[int, ...]]) -> None:
        own = {}
        for key, shape in shapes.items():
            if not key.startswith("scores."):
                own[key] = shape
        for index, part in enumerate(self.parts()):
            prefix = f"scores.{index}."
            part.allocate({key.removeprefix(prefix): s for key, s in shapes.items() if key.startswith(prefix)})
        super().allocate(own)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return self.joined(self.surprises(features, logits, feature_map))

    def surprises(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """-log p_j (J, N) of each part."""
        if not self.tables.numel():
            raise unfitted(self)
        return surprise(torch.stack(self._scores(features, logits, feature_map)), self.tables)

    def joined(self, surprises: Tensor) -> Tensor:
        """ood_score (N,) of `surprises` (J, N)."""
        return surprises.amax(0) if self.options.rule == "tippett" else surprises.sum(0)


def _lengthened(table: Tensor, length: int) -> Tensor:
    """The same line with `length` columns: more knots on its last segment."""
    missing = length - table.shape[1]
    if not missing:
        return table
    share = torch.linspace(0, 1, missing + 2, dtype=table.dtype, device=table.device)[1:]
    return torch.cat([table[:, :-1], table[:, -2:-1] + share * (table[:, -1:] - table[:, -2:-1])], 1)
