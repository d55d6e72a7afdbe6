"""Logits are logits: told by their values on the user's images, and by what the score reads of them."""

from __future__ import annotations

import torch

from guard.data import ImageData
from guard.errors import ModelError
from guard.graph.answers import NORMALISED
from guard.graph.module import GuardModule

from ...features.answers import check_values
from .sample import CHECKED, sample


@torch.inference_mode()
def check_logits(module: GuardModule, data: ImageData, outputs: str) -> None:
    """Refuse a classifier whose numbers are no logits.

    Args:
        module: gives the logits, converted already where `outputs` asked for it.
        data: in-distribution images.
        outputs: of `guard.fit`.

    Raises:
        ModelError: with what they are, and the fix.
    """
    images = sample(data, CHECKED).to(module.scale.device)
    logits = module.classifier(module.normalise(images)).logits
    # converted numbers are what was asked for: what is left to see is whether they are finite and vary
    check_values(logits, "auto" if outputs == "auto" else "log_softmax" if outputs in NORMALISED else "logits")


@torch.inference_mode()
def check_reads_probabilities_alone(module: GuardModule, data: ImageData, outputs: str) -> None:
    """Refuse a score that reads what a softmax has lost: the constant of each image's logits.

    Such a score changes when a constant is added to them. Energy would be 0 for every image.

    Raises:
        ModelError: it does.
    """
    if outputs not in NORMALISED or "input gradient" in module.score.needs:
        return
    images = sample(data, CHECKED).to(module.scale.device)
    features, logits, feature_map = module.outputs(images)
    constants = torch.linspace(1, 9, len(logits), device=logits.device)[:, None]
    for part in module.score.parts():
        before, after = (part(features, f, feature_map) for f in (logits, logits + constants))
        if not torch.allclose(before, after, rtol=1e-3, atol=1e-4):
            raise ModelError(
                f"score {part.name!r} reads the size of the logits, which a softmax loses (outputs={outputs!r}); use "
                "score='msp', 'entropy' or 'gen', which read the probabilities alone, or give the model without it"
            )
