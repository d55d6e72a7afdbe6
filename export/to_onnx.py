"""GuardModule -> bytes of one ONNX graph.

inputs   images uint8 (N, H, W, channels), N dynamic;  threshold float32 scalar, optional: an initializer is its default
         where the calibration asks for them (`export.optional_inputs`), optional too: class_offsets float32 (C,),
         inverse_temperature float32 scalar
outputs  label int64 (N,), probabilities float32 (N, C), ood_score float32 (N,), is_ood bool (N,)
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from guard.errors import ExportError
from guard.graph.module import GuardModule
from guard.graph.onnx_classifier import OnnxClassifier
from guard.graph.onnx_nodes import foreign_operators, opset
from guard.manifest import Manifest

from .explained import Explained, ExplainedScore
from .graft import ScorePart, example, graft
from .optional_inputs import recalibrated
from .tidy import tidy

OPSET = 20
OLDEST_OPSET = 18  # what older releases of torch leave when asked for 20
INPUTS = ["images", "threshold"]
OUTPUTS = ["label", "probabilities", "ood_score", "is_ood"]
_PROTOBUF_LIMIT = 2**31 - 2**20


def onnx_bytes(module: GuardModule, manifest: Manifest, *, explained: bool = False) -> bytes:
    """Export `module` in float32 with the manifest's threshold as default; `explained` adds outputs (`.explained`).

    Raises:
        ExportError: the score cannot be part of a graph, the model cannot be traced, or its graph is above protobuf's
            2 GiB.
    """
    if module.score.no_export:
        raise ExportError(
            f"score {manifest.score!r} cannot be exported: {module.score.no_export}; run it from its run folder, or "
            f"fit the nearest score that exports, {module.score.nearest}: guard.fit(g, data, score=...)"
        )
    module = copy.deepcopy(module).cpu().float().eval()
    _check_parts(module)
    if isinstance(module.classifier, OnnxClassifier):
        model = _grafted(module, module.classifier, manifest, explained)
    else:
        p = manifest.preprocess
        # an even batch of two: a batch of one would be taken for a constant. Its memory is channels-first, so the
        # permuted tensor is contiguous: for channels-last memory torch's pooling traces an as_strided, eight nodes
        # that do nothing
        images = torch.zeros(2, p.channels, p.height, p.width, dtype=torch.uint8).permute(0, 2, 3, 1)
        arguments = (images, torch.tensor(0.0))
        model = _traced(Explained(module) if explained else module, arguments, INPUTS, manifest)
    model = tidy(model, threshold=manifest.threshold)
    onnx.checker.check_model(model)
    return recalibrated(model.SerializeToString(), manifest)


def _check_parts(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ExportError(
                "a TorchScript module cannot be exported to ONNX; fit the guard on the Python module it was made from"
            )
        if ".quantized" in type(part).__module__:
            raise ExportError(
                f"torch's quantised {type(part).__name__} cannot be exported to ONNX; fit the guard on the float "
                "model, or on an ONNX file with static quantisation (QDQ)"
            )


def _grafted(module: GuardModule, classifier: OnnxClassifier, manifest: Manifest, explained: bool) -> onnx.ModelProto:
    """The graph of an ONNX classifier with the score's nodes behind it, which alone are torch's."""
    net = onnx.load_from_string(classifier.graph_bytes())
    inputs = example(classifier.num_features, len(manifest.class_names))
    names = ["features", "logits", "threshold"]
    part = ExplainedScore(module.score) if explained else ScorePart(module.score)
    score_part = _traced(part, inputs, names, manifest, opset(net))
    _check_size(net.ByteSize() + score_part.ByteSize())
    bgr = module.normalisation.channel_order == "bgr"
    return graft(net, score_part, classifier.image_input(), module.scale, module.shift, bgr=bgr)


def _traced(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], manifest: Manifest, opset_version: int = OPSET
) -> onnx.ModelProto:
    """What torch writes; all inputs but scalars have a dynamic batch."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        try:
            with _quiet(), torch.no_grad():
                torch.onnx.export(
                    module.eval(),
                    arguments,
                    str(path),
                    dynamo=True,
                    optimize=True,
                    external_data=False,
                    opset_version=opset_version,
                    dynamic_shapes=tuple({0: "batch"} if argument.ndim else None for argument in arguments),
                    input_names=inputs,
                    output_names=[*OUTPUTS, *getattr(module, "extra_outputs", ())],
                    verbose=False,
                )
        except Exception as error:
            first = str(error).strip().splitlines()
            raise ExportError(
                f"torch could not write {manifest.backbone} with score {manifest.score} as ONNX: "
                f"{first[0] if first else type(error).__name__}"
            ) from error
        _check_size(path.stat().st_size)
        model = onnx.load(path)
    _check_opset(model)
    _check_types(model)
    return model


def _check_types(model: onnx.ModelProto) -> None:
    """ONNX Runtime has no bfloat16 convolutions (autocast), and in float32 the guard would decide otherwise."""
    casts = [a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"]
    if onnx.TensorProto.BFLOAT16 in casts:
        raise ExportError(
            "the model computes in bfloat16 inside (torch.autocast), which ONNX Runtime does not on the CPU; leave "
            "autocast out of its forward and fit the guard again"
        )


def _check_size(size: int) -> None:
    if size > _PROTOBUF_LIMIT:
        raise ExportError(
            f"the graph has {size / 2**30:.1f} GiB and one ONNX file holds 2; "
            "use a smaller backbone, or a smaller bank (score knn: max_bank=)"
        )


def _check_opset(model: onnx.ModelProto) -> None:
    """torch may leave another opset than it was asked for, or operators that only its own runtime knows."""
    version, foreign = opset(model), foreign_operators(model.graph)
    if foreign or not OLDEST_OPSET <= version <= OPSET:
        found = f"operators {', '.join(foreign)}" if foreign else f"opset {version}"
        raise ExportError(f"torch {torch.__version__} wrote {found}; an artefact needs plain ONNX of opset {OPSET}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints progress and warns about its own future; neither is the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
