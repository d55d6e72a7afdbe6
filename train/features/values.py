"""What a classifier's numbers (n, C) are, told by their values: logits, or what else models return."""

from __future__ import annotations

import torch
from torch import Tensor

from guard.graph.answers import BINARY

_WITHIN = 5e-3  # of 1: what half precision adds up to over many classes

_FIX = {
    "not finite": "returns NaN or infinite numbers for {share} images; check its weights, mean= and std=, and "
    "whether it overflows in half precision",
    "softmax": "returns probabilities (rows that sum to 1); it must return logits: omit its softmax, the guard's graph "
    "has its own, or say outputs='softmax', which serves scores that read p alone, such as 'msp'",
    "percent": "returns percentages (rows that sum to 100); it must return logits: omit its softmax and the factor",
    "log_softmax": "returns log-probabilities (rows whose logsumexp is 0, so energy would be 0 for every image); it "
    "must return logits: omit its log_softmax, or say outputs='log_softmax', which serves scores that read p alone, "
    "such as 'msp'",
    "losses": "returns negative log-probabilities, which are least for the class it chooses; it must return logits: "
    "omit the minus sign and the log_softmax",
    "decisions": "returns decisions (one 1 per row), not logits; give what its argmax or threshold reads",
    "sigmoid": "returns a sigmoid of every class by itself (numbers in [0, 1], rows that do not sum to 1); omit the "
    "sigmoid, or say outputs='sigmoid' where every image is of one class (outputs='logits' if they are logits)",
    "constant": "returns the same numbers for every image ({n} of them); it was not trained, or mean= and std= are "
    "not those it was trained with",
}


def kind_of(numbers: Tensor, *, sigmoid: bool | None = None) -> str:
    """ "logits", or the key of `_FIX` that says what else numbers (n, C) of n images are.

    Args:
        sigmoid: whether they are known to be, or not to be, a sigmoid's; None tells it by values near both ends.
    """
    x = numbers.detach().double().cpu()
    if not torch.isfinite(x).all():
        return "not finite"
    if x.shape[1] > 1:
        positive, rows = bool((x >= -1e-6).all()), x.sum(1)
        if positive and ((rows - 1).abs() < _WITHIN).all():
            return "decisions" if (x.amax(1) == 1).all() and x.shape[1] > 2 and len(x) > 2 else "softmax"
        if positive and ((rows - 100).abs() < 100 * _WITHIN).all():
            return "percent"
        varies = bool((x.amax(0) > x.amin(0)).all())  # the first logit of two may be 0 by definition
        if varies and (x.logsumexp(1).abs() < _WITHIN).all():
            return "log_softmax"
        if varies and ((-x).logsumexp(1).abs() < _WITHIN).all():
            return "losses"
        inside = bool(((x >= 0) & (x <= 1)).all())
        if inside and (bool(x.max() > 0.9 and x.min() < 0.1 and len(x) > 2) if sigmoid is None else sigmoid):
            return "sigmoid"
    if len(x) > 4 and bool((x.amax(0) - x.amin(0) <= 4 * torch.finfo(torch.float32).eps * x.abs().max()).all()):
        return "constant"
    return "logits"


def wrong(numbers: Tensor, outputs: str, *, sigmoid: bool | None = None) -> str:
    """Why numbers (n, C) are not what `outputs` says ("auto": logits), as the end of a sentence; "" where they are."""
    told = kind_of(numbers, sigmoid=False if outputs == "logits" else sigmoid)
    fix = _FIX.get(told, "").format(n=len(numbers), share=_share(numbers))
    if numbers.shape[1] == 1:
        return fix or _one_column(numbers, outputs)
    if outputs == "binary":
        return (
            f"returns {numbers.shape[1]} numbers per image; outputs='binary' is for one, the logit of the second class"
        )
    if told in ("not finite", "constant", "percent", "losses"):
        return fix
    if outputs == "sigmoid":
        outside = bool(((numbers < 0) | (numbers > 1)).any())
        return f"returns numbers outside [0, 1], which no sigmoid gives; omit outputs={outputs!r}" if outside else ""
    if outputs in ("softmax", "log_softmax"):
        alike = told == outputs or (told, outputs) == ("decisions", "softmax")
        return "" if alike else f"does not return what {outputs} gives, as outputs={outputs!r} says; omit it"
    return fix


def _one_column(numbers: Tensor, outputs: str) -> str:
    inside = bool(((numbers >= 0) & (numbers <= 1)).all())
    if outputs not in BINARY:
        said = "'sigmoid' (its probability of the second class)" if inside else "'binary' (the second class's logit)"
        return (
            f"returns one number per image, as a classifier of two classes does; say which with outputs={said}"
            f"{'' if not inside else ', or outputs=' + repr('binary') + ' if it is a logit'}"
        )
    if outputs == "sigmoid" and not inside:
        return "returns numbers outside [0, 1], which no sigmoid gives; say outputs='binary' where they are logits"
    if outputs == "binary" and inside and len(numbers) > 2 and bool(numbers.max() > 0.9) and bool(numbers.min() < 0.1):
        return "returns numbers in [0, 1], as a sigmoid does, which are no logits; say outputs='sigmoid'"
    return ""


def _share(numbers: Tensor) -> str:
    bad = int((~torch.isfinite(numbers)).any(1).sum())
    return f"{bad} of {len(numbers)}"
