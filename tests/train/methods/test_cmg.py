"""Class-mixed generation: which classes, which coordinates, how wide the latents."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from guard.data import load
from guard.errors import ConfigError
from tests.conftest import Arrays
from train.generators.cvae import CVAE
from train.methods.cmg import ClassMixed, different_classes, mixed
from train.outliers.base import IDBatch, PrepareContext

NOTHING = IDBatch(torch.zeros(0), torch.zeros(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_two_classes_differ_and_every_pair_is_equally_likely(classes: int) -> None:
    pairs = different_classes(12_000, classes, generator())
    assert (pairs[:, 0] != pairs[:, 1]).all()
    counts = Counter(map(tuple, pairs.tolist()))
    assert len(counts) == classes * (classes - 1)
    expected = 12_000 / len(counts)
    assert all(abs(n - expected) < 5 * expected**0.5 for n in counts.values())


def test_each_coordinate_is_of_one_of_the_two_about_half_of_them_each() -> None:
    pairs = torch.stack([torch.arange(40.0).expand(500, 40), 100 + torch.arange(40.0).expand(500, 40)], 1)
    made = mixed(pairs, generator())
    from_first, from_second = made == torch.arange(40.0), made == 100 + torch.arange(40.0)
    assert (from_first ^ from_second).all()
    n = made.numel()
    assert abs(int(from_first.sum()) - n / 2) < 4 * (n / 4) ** 0.5
    assert len({tuple(row) for row in from_first.tolist()}) == 500  # each image has a mask of its own
    assert abs(float(from_first.float().mean(0).std()) - (0.25 / 500) ** 0.5) < 0.01  # no coordinate is preferred


@pytest.fixture
def prepared(four: Arrays, tmp_path: Path) -> ClassMixed:
    made = ClassMixed(64, 4, cvae={"latent": 6, "width": 2, "epochs": 1}, spread=5.0)
    made.prepare(PrepareContext(None, load(four), tmp_path, 0, torch.device("cpu")))  # type: ignore[arg-type]
    return made


def test_what_is_decoded(prepared: ClassMixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latents that reach the decoder have s as standard deviation, the embeddings are mixed of the parents'."""
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = CVAE.forward

    def spy(self: CVAE, z: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        given.append((z, embedded))
        return forward(self, z, embedded)

    monkeypatch.setattr(CVAE, "forward", spy)
    made = prepared.sample(NOTHING, generator())
    ((z, embedded),) = given
    assert z.std().item() == pytest.approx(5, rel=0.15)
    assert made.parents is not None
    of_parents = prepared._cvae.get().embedding.weight[made.parents]  # (64, 2, 6)
    assert ((embedded == of_parents[:, 0]) | (embedded == of_parents[:, 1])).all()
    assert made.data.shape == (64, 16, 16, 3)
    assert made.data.dtype == torch.uint8
    assert not made.data.requires_grad


def test_it_stays_out_of_checkpoints_and_asks_to_be_prepared(prepared: ClassMixed) -> None:
    assert not prepared.state_dict()
    with pytest.raises(ConfigError, match="synthesiser 'cmg' decodes with a network that it trains first"):
        ClassMixed(4, 4).sample(NOTHING, generator())
