"""The k-th smallest number of each row."""

from __future__ import annotations

import torch
from torch import Tensor


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest of each row: floating (..., n) -> (...); 1 <= k <= n. `values` may be reordered.

    On a CPU by numpy, whose partition is vectorised: 10 to 20 times as fast as torch's kthvalue and topk there. No
    gradient passes.
    """
    values = values.detach()
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        array = values.numpy()  # shares the memory
        array.partition(k - 1, axis=-1)
        return values[..., k - 1].clone()
    return values.kthvalue(k, dim=-1).values
