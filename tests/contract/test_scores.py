"""What every score must do, tested for each one that is listed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import pytest
import torch

from guard.errors import ConfigError, DataError, UnknownNameError
from guard.scores import Score, create_score, get_score, list_scores, register_score
from tests.contract.conftest import Toy, toy_score
from train.classifiers.rebuild import score_shapes
from train.methods import get_method

Fitted = Callable[[str], Score]
SCORES = list_scores()
FITTED = [name for name in SCORES if not get_score(name).trained_by]


@pytest.mark.parametrize("name", SCORES)
class TestEveryScore:
    def test_it_gives_one_finite_float32_number_per_image(self, name: str, fitted: Fitted, toy: Toy) -> None:
        values = fitted(name)(*toy.held_out)
        assert values.shape == (len(toy.held_out.features),)
        assert values.dtype == torch.float32
        assert values.isfinite().all()

    def test_obvious_outliers_score_higher_than_every_inlier(self, name: str, fitted: Fitted, toy: Toy) -> None:
        inside, outside = fitted(name)(*toy.held_out), fitted(name)(*toy.outliers)
        assert outside.min() > inside.max()

    def test_the_batch_an_image_comes_in_does_not_matter(self, name: str, fitted: Fitted, toy: Toy) -> None:
        score, outputs = fitted(name), toy.held_out
        whole = score(*outputs)
        single = torch.cat([score(*(part[i : i + 1] for part in outputs)) for i in range(40)])
        torch.testing.assert_close(single, whole[:40], rtol=1e-5, atol=1e-5)
        flipped = score(*(part.flip(0) for part in outputs)).flip(0)
        torch.testing.assert_close(flipped, whole, rtol=1e-5, atol=1e-5)

    def test_float32_is_as_good_as_float64(self, name: str, fitted: Fitted, toy: Toy) -> None:
        score = fitted(name)
        exact = copy.deepcopy(score).double()(*(part.double() for part in toy.held_out))
        torch.testing.assert_close(score(*toy.held_out).double(), exact, rtol=1e-5, atol=1e-4)

    def test_scoring_leaves_its_input_and_its_state_as_they_were(self, name: str, fitted: Fitted, toy: Toy) -> None:
        score, outputs = fitted(name), toy.held_out
        inputs, state = [part.clone() for part in outputs], copy.deepcopy(score.state_dict())
        score(*outputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, outputs, strict=True))
        assert all(torch.equal(state[key], value) for key, value in score.state_dict().items())

    def test_saved_state_goes_into_a_fresh_score(self, name: str, fitted: Fitted, toy: Toy) -> None:
        score = fitted(name)
        loaded = create_score(name, **score.options.model_dump())
        loaded.allocate(score_shapes(score))
        loaded.load_state_dict(score.state_dict())
        assert torch.equal(loaded(*toy.held_out), score(*toy.held_out))

    def test_it_says_so_when_it_was_not_fitted(self, name: str, fitted: Fitted, toy: Toy) -> None:
        if not fitted(name).state_dict():
            pytest.skip("it has nothing to fit")
        with pytest.raises(ConfigError, match=f"score '{name}' was not fitted"):
            create_score(name)(*toy.held_out)

    def test_an_unknown_option_is_named_with_those_it_has(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"score '{name}' has no option 'colour'.*Its options and defaults: "):
            create_score(name, colour="red")

    def test_a_near_miss_is_recognised(self, name: str) -> None:
        with pytest.raises(UnknownNameError, match=f"did you mean.*'{name}'"):
            create_score(name + "x")

    def test_its_docstrings_say_where_it_comes_from(self, name: str) -> None:
        assert (get_score(name).__doc__ or "").strip()
        assert "Source: " in (inspect.getmodule(get_score(name)).__doc__ or "")

    def test_its_options_explain_themselves_and_are_no_arguments(self, name: str) -> None:
        fields = get_score(name).Options.model_fields
        assert not [option for option, field in fields.items() if not (field.description or "").endswith(".")]
        assert not set(fields) & set(inspect.signature(create_score).parameters)

    def test_the_method_that_trains_it_exists(self, name: str) -> None:
        if get_score(name).trained_by:
            get_method(get_score(name).trained_by)


@pytest.mark.parametrize("name", FITTED)
class TestEveryFittedScore:
    def test_many_small_batches_fit_like_one(self, name: str, fitted: Fitted, toy: Toy) -> None:
        score = toy_score(name)
        score.begin(toy.features.shape[1], toy.logits.shape[1], toy.last_layer)
        for part in torch.arange(len(toy.labels)).split(37):
            score.update(toy.features[part], toy.logits[part], toy.labels[part], toy.feature_map[part])
        score.finish()
        torch.testing.assert_close(score(*toy.held_out), fitted(name)(*toy.held_out), rtol=1e-5, atol=1e-5)

    def test_fitting_again_forgets_the_first_data(self, name: str, fitted: Fitted, toy: Toy) -> None:
        score = toy_score(name).fit(
            5 + 3 * toy.features, toy.logits - 7, toy.labels, toy.last_layer, 5 + 3 * toy.feature_map
        )
        score.fit(toy.features, toy.logits, toy.labels, toy.last_layer, toy.feature_map)
        assert torch.equal(score(*toy.held_out), fitted(name)(*toy.held_out))

    def test_no_data_is_an_error(self, name: str, toy: Toy) -> None:
        if not get_score(name).needs_fit:
            pytest.skip("it needs no data")
        score = toy_score(name)
        score.begin(toy.features.shape[1], toy.logits.shape[1], toy.last_layer)
        with pytest.raises(DataError, match=name):
            score.finish()


def test_every_score_of_the_package_is_listed() -> None:
    expected = {"msp", "max_logit", "energy", "energy_logistic", "mahalanobis", "knn", "vim", "cosine", "rejection"}
    expected |= {"react", "dice", "ash", "nnguide", "reject_class"}
    expected |= {"entropy", "gen", "kl_matching", "relative_mahalanobis", "she"}
    assert expected <= set(SCORES)
    assert sorted(SCORES) == SCORES
    assert list_scores("max*") == ["max_logit"]


def test_only_scores_can_be_registered_and_names_are_taken_once() -> None:
    with pytest.raises(ConfigError, match=r"a subclass of guard\.scores\.base\.Score, got <class 'int'>"):
        register_score(int)  # type: ignore[arg-type]

    class Other(Score):
        name = "energy"

    with pytest.raises(ConfigError, match="a score named 'energy' is registered already"):
        register_score(Other)
    assert get_score("energy") is not Other
