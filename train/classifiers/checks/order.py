"""Whether the classes' names stand at the logits that answer so: seen in what the classifier says of labelled images.

Nothing else can show it where the data's classes have other names than the model's, or the model has none. A network
trained on the folders "0" ... "11" has its third logit for "10" where a program listed them as text, and for "2" where
it listed them by number. Of the orders in which programs list names, the one that fits the labels is taken, and said.
Whatever was taken, by name or by order, another one-to-one assignment that fits far better is warned of.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from guard.data import ImageData
from guard.data.class_names import listed
from guard.data.classes import ClassOrder
from guard.data.natural_orders import natural_orders
from guard.graph.module import GuardModule

log = logging.getLogger("ood_guard")

PER_CLASS, MOST_IMAGES = 16, 2048  # images that are looked at
GAIN = 0.05  # of accuracy; less is no reason to doubt an order
DEVIATIONS = 3.0  # by which the images that speak for another order outnumber those against it
SURE_IMAGES, SURE_SHARE = 5, 0.8  # of a class, whose images are nearly all called by one other class's name


def order_of_labels(module: GuardModule, data: ImageData, order: ClassOrder, *, batch_size: int = 64) -> ClassOrder:
    """`order`, or of the natural orders of the data's classes the one that fits the labels clearly better.

    Only an order that no names decided is replaced, and that is logged. A warning names the first classes that
    another assignment of names to logits would move, where it is clearly better than the order that is used.

    Args:
        module: the classifier, on its device.
        data: labelled images, with labels in the data's own order.
        order: what the names say.
    """
    labels, predicted = _answers(module, data, batch_size)
    if order.by_name:
        used = order
    else:
        used = _best(labels, predicted, order, len(order.names))
    _warn_of_better(labels, predicted, used)
    return used


def _best(labels: np.ndarray, predicted: np.ndarray, order: ClassOrder, answers: int) -> ClassOrder:
    """The natural order that fits the labels best, where that is clearly better than the order as it is."""
    best, title, right = order.positions, "", predicted == order.positions[labels]
    before = right
    for name, positions in _candidates(order, answers).items():
        fits = predicted == positions[labels]
        if _clearly_better(fits, right):
            best, title, right = positions, name, fits
    if not title:
        return order
    used = order.moved(best)
    rank = np.argsort(best)
    log.warning(
        "the classes are taken in %s order (%s), which fits the labels of %.0f %% of %d images; the order as given "
        "(%s) fits %.0f %%. class_names= overrules",
        title,
        listed([order.data_names[at] for at in rank], 5, 20),
        100 * right.mean(),
        len(labels),
        listed([order.data_names[at] for at in np.argsort(order.positions)], 5, 20),
        100 * before.mean(),
    )
    return used


def _candidates(order: ClassOrder, answers: int) -> dict[str, np.ndarray]:
    """The logit of each class of the data, by each natural order of all of them."""
    names = order.data_names
    if len(names) == answers:
        return natural_orders(names)
    every = [str(at) for at in range(answers)]  # indices, some of which have no images
    places = natural_orders(every)
    return {title: order_[[int(name) for name in names]] for title, order_ in places.items()}


def _clearly_better(fits: np.ndarray, right: np.ndarray) -> bool:
    """By McNemar's test: images that only the one calls right, against those that only the other does."""
    gained, lost = int((fits & ~right).sum()), int((right & ~fits).sum())
    enough = fits.mean() >= right.mean() + GAIN
    return bool(enough and gained - lost > DEVIATIONS * np.sqrt(gained + lost))


def _warn_of_better(labels: np.ndarray, predicted: np.ndarray, used: ClassOrder) -> None:
    """Where names and answers disagree in a pattern: each class has its logit, but another one."""
    truth, classes = used.positions[labels], len(used.names)
    right = predicted == truth
    if right.all():
        return
    fits = np.zeros(len(truth), bool)
    halves = np.arange(len(truth)) % 2 == 0
    for half in (halves, ~halves):  # learned on one half, asked on the other: chance fits no other half
        fits[~half] = predicted[~half] == _assignment(truth[half], predicted[half], classes)[truth[~half]]
    assigned = _assignment(truth, predicted, classes)
    moved = [
        at
        for at in np.unique(truth)
        if assigned[at] != at and _sure(predicted[truth == at], int(assigned[at]), int(at))
    ]
    swapped = moved and set(moved) == {int(assigned[at]) for at in moved}
    if not (_clearly_better(fits, right) or swapped):
        return
    pairs = [
        f"{used.names[at]} -> {used.names[assigned[at]]}" for at in (moved or np.unique(truth)) if assigned[at] != at
    ]
    log.warning(
        "the class names seem to stand at the wrong logits: with them %.0f %% of %d labelled images are right, %.0f %% "
        "with the best assignment; images of one class are called another (%s). Give class_names= in the logits' order",
        100 * right.mean(),
        len(truth),
        100 * (predicted == assigned[truth]).mean(),
        listed(pairs, 4, 60),
    )


def _sure(predicted: np.ndarray, other: int, own: int) -> bool:
    """Whether nearly all of a class's images get one other class's answer, and hardly one its own."""
    enough = len(predicted) >= SURE_IMAGES
    return enough and float((predicted == other).mean()) >= SURE_SHARE and float((predicted == own).mean()) <= 0.1


def _assignment(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 (C,): the logit of each class, one to one, that makes most images right; its own where none says more."""
    there, seen = np.unique(truth), np.union1d(truth, predicted)  # of 20,000 classes few are looked at
    counts = np.zeros((len(there), len(seen)))
    np.add.at(counts, (np.searchsorted(there, truth), np.searchsorted(seen, predicted)), 1)
    counts[np.arange(len(there)), np.searchsorted(seen, there)] += 1e-3  # of equals the one that is used
    rows, columns = linear_sum_assignment(counts, maximize=True)
    logits = np.arange(classes)
    logits[there[rows]] = seen[columns]
    return logits


@torch.inference_mode()
def _answers(module: GuardModule, data: ImageData, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers (n,) of some images of every class."""
    assert data.labels is not None  # the caller loaded labelled images
    rows, module = _sample(data.labels), module.eval()
    images = data.subset(rows)
    found = []
    for batch, _ in images.batches(batch_size):
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(module.scale.device)
        found.append(module.classifier(module.normalise(pixels)).logits.argmax(-1).cpu().numpy())
    return data.labels[rows], np.concatenate(found)


def _sample(labels: np.ndarray) -> np.ndarray:
    """Ascending rows: the first, the middle, the last ... of each class, as many of each as there is room for."""
    classes = np.unique(labels)
    per_class = max(1, min(PER_CLASS, MOST_IMAGES // max(1, len(classes))))
    rows = [np.flatnonzero(labels == c) for c in classes]
    picked = [own[np.unique(np.linspace(0, len(own) - 1, per_class).round().astype(int))] for own in rows]
    return np.sort(np.concatenate(picked))
