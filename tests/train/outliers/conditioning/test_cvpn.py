"""The conditional volume-preserving network: its inverse, its determinant, its layers against plain numpy."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import Tensor

from guard.errors import ConfigError
from train.outliers.conditioning.cvpn import CVPN, ConditionalCoupling, Orthogonal, Variant

CLASSES = 3
DTYPES = [torch.float32, torch.float64]


def network(
    width: int,
    variant: Variant = "paper",
    dtype: torch.dtype = torch.float32,
    train: bool = False,
    unit: float = 1.0,
) -> CVPN:
    """One whose couplings do much more than at their start."""
    torch.manual_seed(width)
    made = CVPN(width, CLASSES, variant, unit).to(dtype).train(train)
    with torch.no_grad():
        for coupling in made.couplings:
            for parameter in coupling.parameters():
                parameter.mul_(3)
        for turn in made.turns:
            turn.bias.normal_()  # type: ignore[union-attr, operator]
    return made


def inputs(n: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator, dtype=dtype), torch.arange(n) % CLASSES


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("width", [2, 3, 16, 33, 256])
def test_the_inverse_gives_back_what_went_in(width: int, variant: Variant) -> None:
    f = network(width, variant)
    x, y = inputs(50, width)
    with torch.no_grad():
        v = f(x, y)
        assert (f.inverse(v, y) - x).abs().max() < 1e-4
        assert (f(f.inverse(x, y), y) - x).abs().max() < 1e-4
        assert (v - x).abs().max() > 0.5  # it does something
        assert (f(x, (y + 1) % CLASSES) - v).abs().max() > 1e-3  # and by class


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("width", [2, 5, 12])
def test_volume_is_preserved(width: int, variant: Variant, dtype: torch.dtype, train: bool) -> None:
    """By the Jacobian of f itself; its determinant is taken in float64.

    In training the exponential is a float32 one, whose error is ten times that of the rest.
    """
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4 if train else 1e-5
    f = network(width, variant, dtype, train)
    x, y = inputs(6, width, dtype)
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda z, i=i: f(z[None], y[i : i + 1])[0], x[i])
        sign, log = torch.linalg.slogdet(jacobian.double())
        assert sign == 1
        assert abs(float(log)) < tolerance
        assert (jacobian - jacobian.mT).abs().max() > 1e-2  # a map that turns and shears


@pytest.mark.parametrize("width", [2, 7, 40])
def test_a_turn_is_the_exponential_of_a_skew_matrix(width: int) -> None:
    torch.manual_seed(0)
    turn = Orthogonal(width)
    a = np.triu(turn.skew.detach().double().numpy(), 1)
    assert np.abs(a).max() <= math.pi
    assert np.abs(a).max() > 2 or width == 2
    q = expm(a - a.T)
    for mode, tolerance in ((True, 1e-4), (False, 1e-6)):
        turn.train(mode)
        mine = turn.matrix().detach().double().numpy()
        np.testing.assert_allclose(mine, q, atol=tolerance)
        np.testing.assert_allclose(mine @ mine.T, np.eye(width), atol=tolerance)
    x, _ = inputs(5, width)
    torch.nn.init.normal_(turn.bias)
    expected = x.double().numpy() @ q.T + turn.bias.detach().double().numpy()
    np.testing.assert_allclose(turn(x).detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(turn.inverse(turn(x)).detach().numpy(), x.numpy(), atol=1e-5)


def test_what_eval_keeps_is_forgotten_when_weights_change() -> None:
    turn, other = Orthogonal(6).eval(), Orthogonal(6).eval()
    before = turn.matrix()
    assert turn.matrix() is before  # computed once
    turn.load_state_dict(other.state_dict())
    assert turn.matrix().equal(other.matrix())
    turn.train()
    with torch.no_grad():
        turn.skew.mul_(0.5)
    turn.eval()
    assert not turn.matrix().equal(other.matrix())
    assert turn.double().matrix().dtype == torch.float64
    copied = copy.deepcopy(turn)
    assert copied.matrix().equal(turn.matrix())


def test_lower_triangle_and_diagonal_do_nothing() -> None:
    turn = Orthogonal(5)
    before = turn.matrix().detach().clone()
    with torch.no_grad():
        turn.skew += torch.ones(5, 5).tril()
    assert turn.matrix().equal(before)


@pytest.mark.parametrize(("variant", "width", "moved", "conditions"), [("paper", 7, 4, 4), ("code", 7, 3, 16)])
def test_a_coupling_is_the_published_network(variant: Variant, width: int, moved: int, conditions: int) -> None:
    f = network(width, variant)
    coupling = f.couplings[0]
    assert isinstance(coupling, ConditionalCoupling)
    assert f.embedding.weight.shape == (CLASSES, conditions)
    x, y = inputs(4, width)
    h = f.embedding(y).detach().double().numpy()

    def linear(layer: object, z: np.ndarray) -> np.ndarray:
        assert isinstance(layer, torch.nn.Linear)
        return z @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    z = x.double().numpy()
    x1, x2 = z[:, :moved], z[:, moved:]
    hidden = linear(coupling.first[2], sigmoid(linear(coupling.first[0], x2)))
    hidden = hidden + linear(coupling.condition[1], h * sigmoid(h))
    tau = linear(coupling.last[3], sigmoid(linear(coupling.last[1], sigmoid(hidden))))
    expected = np.concatenate([x1 + tau, x2], 1)
    np.testing.assert_allclose(coupling(x, f.embedding(y)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    n = max(moved, width - moved)
    shapes = [layer.out_features for layer in coupling.modules() if isinstance(layer, torch.nn.Linear)]
    assert shapes == [4 * n, 4 * n, 4 * n, 4 * n, moved]
    assert np.abs(tau).max() > 0.1


def test_there_are_four_blocks_and_a_last_turn() -> None:
    f = network(6)
    assert len(f.couplings) == 4
    assert len(f.turns) == 5
    matrices = [turn.matrix() for turn in f.turns]  # type: ignore[operator, union-attr]
    assert all(not a.equal(b) for a, b in pairwise(matrices))
    x, y = inputs(3, 6)
    by_hand = x
    for i in range(4):
        by_hand = f.couplings[i](f.turns[i](by_hand), f.embedding(y))
    assert f(x, y).equal(f.turns[4](by_hand))


@pytest.mark.parametrize("unit", [0.01, 20.0])
def test_a_unit_scales_the_network_and_keeps_volume(unit: float) -> None:
    plain, scaled = network(7, dtype=torch.float64), network(7, dtype=torch.float64, unit=unit)
    x, y = inputs(9, 7, torch.float64)
    torch.testing.assert_close(scaled(unit * x, y), unit * plain(x, y))
    torch.testing.assert_close(scaled.inverse(scaled(unit * x, y), y), unit * x)
    jacobian = torch.autograd.functional.jacobian(lambda z: scaled(z[None], y[:1])[0], unit * x[0])
    assert abs(float(torch.linalg.slogdet(jacobian)[1])) < 1e-12
    other = CVPN(7, CLASSES)
    other.load_state_dict(scaled.float().state_dict())
    assert float(other.unit) == pytest.approx(unit)


def test_gradients_reach_every_parameter() -> None:
    f = network(9, train=True)
    x, y = inputs(30, 9)
    f(x, y)[:, :4].square().sum().backward()
    missing = [name for name, p in f.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_one_dimension_is_too_few() -> None:
    with pytest.raises(ConfigError, match="needs at least 2 dimensions, got 1"):
        CVPN(1, CLASSES)
