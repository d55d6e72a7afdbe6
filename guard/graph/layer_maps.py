"""The outputs of named layers, summarised where they are made, for the scores that read them (`Score.layers`).

Hooks are set inside the forward pass and removed after it, so torch.export traces through them and the exported graph
holds the summaries as plain nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    from ..scores import Score
    from .outputs import FeatureClassifier, Outputs


@contextmanager
def watching(root: nn.Module, layers: Iterable[str], see: Callable[[str, Any], None]) -> Iterator[None]:
    """Call see(name, output) whenever one of these submodules of `root` has run.

    Raises:
        UnknownNameError: `root` has no submodule of that name.
    """
    named = dict(root.named_modules())
    handles = []
    try:
        for name in layers:
            if name not in named or not name:
                raise UnknownNameError("layer", name, (known for known in named if known))

            def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                see(name, output)

            handles.append(named[name].register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def summarised(
    classifier: FeatureClassifier, x: Tensor, score: Score, layers: Sequence[str]
) -> tuple[Outputs, tuple[Tensor, ...]]:
    """The classifier's outputs of normalised images, and the score's summary (N, k) of each of these layers.

    Raises:
        UnknownNameError, ModelError: a layer that the classifier does not have, does not run, or that gives no tensor.
    """
    found: dict[str, Tensor] = {}

    def see(name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise ModelError(f"layer {name!r} returns a {kind}; score {score.name!r} needs one that returns a tensor")
        found[name] = score.summarise(output)  # at once: the next layer may work in place

    with watching(classifier.layer_root(), layers, see):
        outputs = classifier(x)
    for name in layers:
        if name not in found:
            raise ModelError(f"the model did not run its layer {name!r}; name others with layers=")
    return outputs, tuple(found[name] for name in layers)


def with_layers(classifier: FeatureClassifier, x: Tensor, score: Score) -> Outputs:
    """The classifier's outputs of normalised images; as feature map the summaries (N, K) of the layers that the score
    reads, where it reads some."""
    if not score.layers:
        outputs: Outputs = classifier(x)
        return outputs
    outputs, summaries = summarised(classifier, x, score, score.layers)
    return outputs._replace(feature_map=torch.cat(summaries, -1))
