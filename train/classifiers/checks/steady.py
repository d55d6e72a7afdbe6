"""An image is judged alike whatever its batch, its neighbours and chance: the same images are run again, in another
order, and one by one.

Two passes differ where dropout stays on; batches differ where a layer computes over all their images: a batch norm
without running statistics, a softmax over the wrong dimension, an int8 scale of the whole batch. The layer is found by
comparing what goes into each module and what comes out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from guard.data import ImageData
from guard.errors import ModelError
from guard.graph.module import GuardModule
from guard.graph.onnx_classifier import OnnxClassifier
from guard.graph.outputs import FeatureClassifier, Outputs

from ...features.messages import cut, first_line
from .sample import CHECKED, sample

ALONE = 4  # images that are run one by one
_ROUNDING = 2e-3  # of the numbers' range: float32 in another order of summation is far below
_HALF = 2e-2  # likewise where the model computes in bfloat16 or half inside, or a GPU in TF32
_TRACED = 4  # images that are run to find the layer


@torch.inference_mode()
def check_steady(module: GuardModule, data: ImageData) -> None:
    """Refuse a classifier whose answer to an image depends on anything but the image.

    Raises:
        ModelError: with the layer, where it can be found.
    """
    classifier = module.classifier.eval()
    x = module.normalise(sample(data, CHECKED).to(module.scale.device))
    first = _answers(classifier, x)
    loose = _HALF if x.is_cuda or _in_half(first.logits) else _ROUNDING
    if not _alike(first, _answers(classifier, x), _ROUNDING):
        raise ModelError(_random(classifier, x[:_TRACED]))
    backwards = _answers(classifier, x.flip(0))
    if not _alike(first, Outputs(backwards.features.flip(0), backwards.logits.flip(0), None), loose):
        raise ModelError(_of_the_batch(classifier, x))
    for i in range(min(ALONE, len(x))):
        try:
            alone = _answers(classifier, x[i : i + 1])
        except Exception as error:  # whatever the model's own code raises
            raise ModelError(
                f"the model takes {len(x)} images together and not one alone ({cut(first_line(error), 120)}); a guard "
                "is asked for single images: let the model take any number"
            ) from error
        if not _alike(Outputs(first.features[i : i + 1], first.logits[i : i + 1], None), alone, loose):
            raise ModelError(_of_the_batch(classifier, x))


def _answers(classifier: FeatureClassifier, x: Tensor) -> Outputs:
    outputs: Outputs = classifier(x)
    return outputs._replace(features=outputs.features.float(), logits=outputs.logits.float())


def _alike(a: Outputs, b: Outputs, within: float) -> bool:
    return all(
        x.shape == y.shape and (not x.numel() or _close(x, y, within))
        for x, y in ((a.logits, b.logits), (a.features, b.features))
    )


def _close(a: Tensor, b: Tensor, within: float) -> bool:
    """Equal up to a share of their range, and to float32's rounding of their size."""
    size = float(a.max() - a.min()) * within + 1e-5 * float(a.abs().max())
    return bool(((a - b).abs() <= size).all())


def _in_half(logits: Tensor) -> bool:
    return any(torch.equal(logits.to(kind).float(), logits) for kind in (torch.bfloat16, torch.float16))


def _random(classifier: FeatureClassifier, x: Tensor) -> str:
    where = _first_that_differs(classifier, x, x, rows=len(x))
    return (
        f"the same images get other answers at each pass: {where} is random at inference; switch it off in eval mode, "
        "e.g. F.dropout(x, p, training=self.training)"
    )


def _of_the_batch(classifier: FeatureClassifier, x: Tensor) -> str:
    where = _first_that_differs(classifier, x, x[:1], rows=1)
    return (
        f"an image's answer depends on the images beside it: {where} computes over the whole batch; let it read each "
        f"image alone{_advice(where)}"
    )


def _advice(where: str) -> str:
    if "BatchNorm" in where:
        return ", with running statistics (track_running_stats=True, and trained so)"
    if "quantized" in where or "Quantiz" in where:
        return ", with static scales or in float32"
    return ""


class _Ran(NamedTuple):
    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def _first_that_differs(classifier: FeatureClassifier, x: Tensor, y: Tensor, rows: int) -> str:
    """The first module to give other answers to the same input, in words; the first `rows` of each are compared."""
    if isinstance(classifier, OnnxClassifier):
        from ..onnx.suspects import suspects  # onnx takes a while to import

        return suspects(classifier.graph_bytes()) or "something in the graph"
    a, b = _run(classifier, x, rows), _run(classifier, y, rows)
    for one, other in zip(a, b, strict=False):
        if one.name != other.name or not _same(one.inputs, other.inputs):
            continue
        if not _same(one.outputs, other.outputs):
            return one.name
    return "something in its code"


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and (not x.numel() or _close(x, y, _ROUNDING / 2)) for x, y in zip(a, b, strict=True)
    )


def _run(classifier: FeatureClassifier, x: Tensor, rows: int) -> list[_Ran]:
    """What each module took and gave, in the order in which they were done."""
    ran: list[_Ran] = []
    root = classifier.layer_root()
    taken: dict[int, list[Tensor]] = {}

    def first(things: Any) -> list[Tensor]:
        things = things if isinstance(things, (tuple, list)) else [things]
        return [
            t[:rows].detach().float().cpu().clone()
            for t in things
            if isinstance(t, Tensor) and t.ndim and t.shape[0] == len(x) and not t.is_quantized
        ]

    def before(module: nn.Module, inputs: Any) -> None:
        taken[id(module)] = first(inputs)  # before the module works in place

    @contextmanager
    def watched() -> Iterator[None]:
        handles = []
        for name, module in root.named_modules():
            shown = f"layer {name!r} ({_kind(module)})" if name else f"the code of {_kind(module)}"

            def after(module: nn.Module, _: Any, output: Any, shown: str = shown) -> None:
                ran.append(_Ran(shown, taken.get(id(module), []), first(output)))

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    if isinstance(root, torch.jit.ScriptModule):
        return []
    with watched():
        try:
            classifier(x)
        except Exception:  # said by whoever ran it before
            return ran
    return ran


def _kind(module: nn.Module) -> str:
    module = getattr(module, "wrapped", module)
    quantised = "quantized." if ".quantized" in type(module).__module__ else ""
    return quantised + type(module).__name__
