"""Cross-fitting, against the slow and obvious loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.errors import DataError
from guard.scores import create_score
from train.features.cross_fitting import cross_fit, folds_of, fresh_score, logistic_regression

RNG = np.random.default_rng(0)


def _data(n: int = 90, classes: int = 3, width: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, width) of very different spreads, labels, and digests of images none of which is a copy."""
    labels = RNG.integers(0, classes, n)
    features = RNG.normal(size=(n, width)) + 2 * np.eye(classes, width)[labels]
    return (features * 10.0 ** np.arange(width)).astype(np.float32), labels, np.arange(n, dtype=np.uint64)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_last_layer_is_sklearns_regression_on_standardised_features(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, _ = _data(classes=classes)
    features[:, 4] = 7.0  # tells nothing
    last = logistic_regression(features, labels)
    logits = torch.from_numpy(features) @ last.weight.T + last.bias
    wanted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, labels)
    np.testing.assert_allclose(logits.softmax(1), wanted.predict_proba(features), atol=1e-4)


def test_every_class_is_in_every_fold_and_copies_stay_together() -> None:
    labels = np.repeat([0, 1, 2], [50, 25, 11])
    first = np.arange(86)
    first[[10, 60, 80]] = [3, 3, 70]  # two copies with another label
    fold = folds_of(labels, first, 5, seed=0)
    assert fold[10] == fold[60] == fold[3]
    assert fold[80] == fold[70]
    counts = np.array(
        [[((fold == k) & (labels == c) & (first == np.arange(86))).sum() for k in range(5)] for c in range(3)]
    )
    assert (counts.max(1) - counts.min(1) <= 1).all()
    assert np.ptp(counts.sum(0)) <= 1
    assert not np.array_equal(fold, folds_of(labels, first, 5, seed=1))


@pytest.mark.parametrize("name", ["energy", "mahalanobis", "vim"])
def test_an_image_is_judged_by_the_other_folds_alone(name: str) -> None:
    features, labels, digests = _data()
    options = {"dim": 2} if name == "vim" else {}
    names = ("a", "absent", "b", "c")
    labels = np.array([0, 2, 3])[labels]
    found = cross_fit(features, labels, digests, create_score(name, **options), class_names=names, folds=3, seed=4)
    fold = folds_of(labels, np.arange(90), 3, 4)
    for i in RNG.choice(90, 10, replace=False):
        others = fold != fold[i]
        own = np.searchsorted([0, 2, 3], labels[others])
        last = logistic_regression(features[others], own)
        h = torch.from_numpy(features)
        logits = h @ last.weight.T + last.bias
        score = create_score(name, **options).fit(h[others], logits[others], torch.from_numpy(own), last)
        np.testing.assert_allclose(found.probabilities[i, [0, 2, 3]], logits[i].softmax(0), atol=1e-5)
        np.testing.assert_allclose(found.ood_score[i], score(h, logits)[i].item(), rtol=1e-4, atol=1e-4)
    assert (found.probabilities[:, 1] == 0).all()


def test_what_an_image_is_called_does_not_move_its_own_judgement() -> None:
    features, labels, digests = _data()
    of_another = labels.copy()
    of_another[7] = (labels[7] + 1) % 3
    asked = {"class_names": "abc", "folds": 90, "seed": 0}  # every image is a fold
    before, after = (cross_fit(features, y, digests, create_score("energy"), **asked) for y in (labels, of_another))
    np.testing.assert_array_equal(before.probabilities[7], after.probabilities[7])
    assert not np.array_equal(before.probabilities[8], after.probabilities[8])


def test_a_score_that_is_not_made_from_features_has_a_stand_in() -> None:
    assert [fresh_score(name, {}).name for name in ("msp", "gram", "odin", "rejection", "rotation")] == [
        "msp",
        *4 * ["knn"],
    ]
    assert fresh_score("knn", {"k": 7}).options.k == 7


def test_data_that_cannot_be_judged_is_refused() -> None:
    features, labels, digests = _data()
    asked = {"score": create_score("energy"), "class_names": ("a", "b", "c"), "folds": 5, "seed": 0}
    with pytest.raises(DataError, match="at least two classes, got 1"):
        cross_fit(features, 0 * labels, digests, **asked)
    with pytest.raises(DataError, match="class 'b' has fewer than two different images"):
        cross_fit(features[:9], np.array([0, 0, 0, 0, 0, 0, 0, 1, 1]), np.array([*range(8), 7], np.uint64), **asked)
    with pytest.raises(DataError, match="cross_fit=5 needs as many different images, got 4"):
        cross_fit(features[:4], np.array([0, 0, 1, 1]), digests[:4], **asked)
    features[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinite for 1 of 90"):
        cross_fit(features, labels, digests, **asked)
