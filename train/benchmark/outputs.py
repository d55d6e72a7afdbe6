"""Features and logits taken once, and every score on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.data import ImageData
from guard.detector import Guard
from guard.evaluation import metrics
from guard.graph.module import GuardModule
from guard.graph.outputs import Outputs
from guard.scores import Score

CHUNK = 500  # images per call of a score


@torch.no_grad()
def outputs_of(g: Guard | GuardModule, batches: Iterable[np.ndarray], *, maps: bool | None = None) -> Outputs:
    """Features (N, D) and logits (N, C) of batches of uint8 images, float32 on the CPU.

    Args:
        maps: whether the last map is kept; default where the score reads it.
    """
    module = (g.module if isinstance(g, Guard) else g).eval()
    keep = module.score.uses_map if maps is None else maps
    device, seen = module.scale.device, []
    for batch in batches:
        shown = module.outputs(torch.from_numpy(np.ascontiguousarray(batch)).to(device))
        kept = shown.feature_map.float().cpu() if keep and shown.feature_map is not None else None
        seen.append(Outputs(shown.features.float().cpu(), shown.logits.float().cpu(), kept))
    found = [t.feature_map for t in seen if t.feature_map is not None]
    features, logits = torch.cat([t.features for t in seen]), torch.cat([t.logits for t in seen])
    return Outputs(features, logits, torch.cat(found) if found else None)


def images_of(data: ImageData) -> Iterator[np.ndarray]:
    """The images of a data set in batches."""
    return (images for images, _ in data.batches(256))


@torch.no_grad()
def scores_of(score: Score, outputs: Outputs) -> np.ndarray:
    """ood_score (N,)."""

    def parts(x: Tensor | None) -> Iterable[Any]:
        return x.split(CHUNK) if x is not None else [None] * -(-len(outputs.features) // CHUNK)

    chunks = zip(parts(outputs.features), parts(outputs.logits), parts(outputs.feature_map), strict=True)
    return torch.cat([score(*chunk) for chunk in chunks]).numpy()


def detection_numbers(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """AUROC, both AUPRs and both FPR95s of the scores of in-distribution and of OOD images."""
    return {
        "auroc": metrics.auroc(inside, outside),
        "aupr_in": metrics.aupr_in(inside, outside),
        "aupr_out": metrics.aupr_out(inside, outside),
        "fpr_at_95_id_tpr": metrics.fpr_at_95_id_tpr(inside, outside),
        "fpr_at_95_ood_tpr": metrics.fpr_at_95_ood_tpr(inside, outside),
    }
