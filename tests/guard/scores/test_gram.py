"""The Gram score against its definition and against pytorch-ood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from guard.errors import ConfigError, DataError, ModelError
from guard.scores import create_score
from guard.scores.gram import Gram, channels_first, gram_rows
from tests.references import gram as reference

POWERS = (1, 2, 3, 4, 5)


def maps(n: int, seed: int, scale: float = 1.0) -> list[Tensor]:
    """A signed map (n, 6, 4, 4) and a rectified one (n, 8, 2, 2)."""
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(n, 6, 4, 4, generator=g), scale * torch.randn(n, 8, 2, 2, generator=g).relu()]


def fitted(layers: Sequence[Tensor], logits: Tensor, **options: object) -> Gram:
    score = create_score("gram", **options)
    assert isinstance(score, Gram)
    summaries = [score.summarise(layer) for layer in layers]
    score.watch([str(i) for i in range(len(layers))], [summary.shape[1] for summary in summaries])
    labels = torch.zeros(len(logits), dtype=torch.int64)  # what counts is the predicted class
    score.fit(torch.zeros(len(logits), 1), logits, labels, None, torch.cat(summaries, -1))
    return score


def scored(score: Gram, layers: Sequence[Tensor], logits: Tensor) -> Tensor:
    return score(torch.zeros(len(logits), 1), logits, torch.cat([score.summarise(layer) for layer in layers], -1))


class TestRows:
    @pytest.mark.parametrize("power", range(1, 11))
    def test_one_power_is_the_row_sums_of_the_gram_matrix(self, power: int) -> None:
        for layer in maps(5, seed=power):
            expected = np.stack([reference.row_sums(image.numpy(), power) for image in layer])
            found = gram_rows(channels_first(layer), [power])
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)

    def test_powers_stand_side_by_side_in_the_order_asked_for(self) -> None:
        rows = channels_first(maps(3, seed=0)[0])
        found = gram_rows(rows, (4, 1))
        assert torch.equal(found, torch.cat([gram_rows(rows, (4,)), gram_rows(rows, (1,))], -1))

    @pytest.mark.parametrize("scale", [1e-12, 1e3, 1e9])
    def test_large_and_small_activations_keep_their_digits(self, scale: float) -> None:
        layer = maps(4, seed=1)[1]
        layer[:, 3] *= 1e-5  # (1e-5)^10 is below float32, the root of it is not
        expected = np.stack([reference.row_sums(scale * np.float64(image), 10) for image in layer])
        found = gram_rows(channels_first(layer * scale), (10,))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0)

    def test_a_map_of_zeros_gives_zeros(self) -> None:
        assert gram_rows(torch.zeros(2, 3, 4), POWERS).eq(0).all()

    def test_pytorch_ood_computes_the_same(self) -> None:
        theirs = pytest.importorskip("pytorch_ood.detector").Gram._gram_vector
        for layer in maps(6, seed=2):
            for power in POWERS:
                found = gram_rows(channels_first(layer), [power])
                torch.testing.assert_close(found, theirs(layer, power), rtol=2e-4, atol=1e-4)


class TestChannelsFirst:
    def test_every_layout_becomes_channels_by_positions(self) -> None:
        x = torch.randn(2, 5, 3, 3)
        assert torch.equal(channels_first(x), x.flatten(2))
        assert torch.equal(channels_first(x.permute(0, 2, 3, 1)), x.flatten(2))
        assert torch.equal(channels_first(x.flatten(2).transpose(1, 2)), x.flatten(2))
        assert channels_first(torch.randn(2, 5)).shape == (2, 5, 1)

    def test_another_number_of_dimensions_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"maps of 2, 3 or 4 dimensions, a layer gives \(2, 3, 4, 5, 6\)"):
            channels_first(torch.zeros(2, 3, 4, 5, 6))


class TestScore:
    def test_it_is_its_definition(self) -> None:
        """Two layers, a class that is never predicted, a normaliser from the held-out images."""
        logits, queries = torch.randn(200, 4), torch.randn(30, 4)
        logits[:, 3] -= 100
        layers, query_maps = maps(200, seed=3), maps(30, seed=4, scale=1.3)
        score = fitted(layers, logits, held_out=0.2, seed=5)
        held = torch.rand(200, generator=torch.Generator().manual_seed(5), dtype=torch.float64).numpy() < 0.2

        def statistics(layers: list[Tensor]) -> list[list[np.ndarray]]:
            images = zip(*[layer.numpy() for layer in layers], strict=True)
            return [reference.statistics(image, POWERS) for image in images]

        expected = reference.Gram(statistics(layers), logits.numpy(), held)
        found = scored(score, query_maps, queries)
        np.testing.assert_allclose(found, expected(statistics(query_maps), queries.numpy()), rtol=5e-3)
        assert queries.argmax(-1).eq(3).any()
        assert 20 < held.sum() < 60

    @pytest.mark.filterwarnings("ignore")
    def test_it_is_pytorch_oods_over_the_confidence(self) -> None:
        """Theirs groups by the true label, and does not divide by the confidence; with labels that are the predictions
        and nobody held out, the rest is the same."""
        theirs_class = pytest.importorskip("pytorch_ood.detector").Gram
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        second = nn.Sequential(nn.Conv2d(8, 12, 3, 2), nn.BatchNorm2d(12))
        head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 9, 3))
        network = nn.Sequential(first, second, head).eval()
        images, queries = torch.randn(120, 3, 16, 16), 2 * torch.randn(40, 3, 16, 16)
        with torch.no_grad():
            head[1].bias -= network(images).mean(0)  # so that every class is predicted
            labels, logits = network(images).argmax(-1), network(queries)
            layers, query_layers = ([first(x), second(first(x))] for x in (images, queries))
            ours = fitted(layers, network(images), held_out=1e-9)
        theirs = theirs_class(head, [first, second], 3, list(POWERS)).to("cpu")
        theirs.validation_fraction = 0
        theirs.fit(DataLoader(TensorDataset(images, labels), batch_size=50))
        expected = theirs.predict(queries) / logits.softmax(-1).amax(-1)
        torch.testing.assert_close(scored(ours, query_layers, logits), expected, rtol=1e-3, atol=1e-3)

    def test_images_inside_the_range_of_their_class_score_zero(self) -> None:
        layers, logits = maps(50, seed=6), torch.randn(50, 3)
        score = fitted(layers, logits, held_out=1e-9)
        assert scored(score, layers, logits).eq(0).all()

    def test_the_kept_part_of_the_held_out_images_is_bounded(self) -> None:
        layers, logits = maps(300, seed=7), torch.randn(300, 3)
        full = fitted(layers, logits, held_out=0.5)
        few = fitted(layers, logits, held_out=0.5, max_held_out=40)
        assert torch.equal(few.low, full.low)
        assert not torch.equal(few.weight, full.weight)
        torch.testing.assert_close(few.weight, full.weight, rtol=0.5, atol=0)

    def test_large_activations_stay_finite(self) -> None:
        layers, logits = maps(100, seed=8, scale=1e3), torch.randn(100, 3)
        score = fitted(layers, logits, powers=tuple(range(1, 11)))
        found = scored(score, maps(20, seed=9, scale=1e5), torch.randn(20, 3))
        assert found.isfinite().all()
        assert found.gt(1e3).all()

    def test_mistakes_are_named(self) -> None:
        for powers in ((), (0, 1), (1, 1), (11,)):
            with pytest.raises(ConfigError, match="'gram' option powers: give different whole numbers from 1 to 10"):
                create_score("gram", powers=powers)
        score = create_score("gram")
        with pytest.raises(ConfigError, match="'gram' reads intermediate layers; give their summary as feature_map"):
            score.fit(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3))
        score.begin(2, 2, None)
        score.watch(["a"], [5])
        score.update(torch.zeros(9, 2), torch.zeros(9, 2), torch.zeros(9), torch.zeros(9, 7))
        with pytest.raises(ConfigError, match="watches layers of 5 statistics, it was given 7"):
            score.finish()
        with pytest.raises(DataError, match="'gram' saw no data"):
            create_score("gram", held_out=0.999999).fit(*torch.zeros(3, 1, 2), None, torch.zeros(1, 2))
