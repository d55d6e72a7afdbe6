"""The k-th smallest of each row, against a sort."""

from __future__ import annotations

import pytest
import torch

from train.outliers.features.kth import kth_smallest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_it_is_the_sorted_rows_kth(k: int, dtype: torch.dtype) -> None:
    values = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[..., ::3] = values[..., :1]  # ties
    expected = values.sort(-1).values[..., k - 1]
    assert kth_smallest(values.clone(), k).equal(expected)


def test_it_takes_what_is_not_contiguous_and_gives_no_gradient() -> None:
    values = torch.randn(6, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = kth_smallest(values.T.clone().T, 2)
    assert found.equal(values.detach().sort(-1).values[:, 1])
    assert not found.requires_grad
