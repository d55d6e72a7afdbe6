"""GuardModule -> bytes of one ONNX graph (design, section 4.5).

inputs   images uint8 (N, H, W, channels), N dynamic;  threshold float32 scalar, optional: an initializer is its default
         where the calibration asks for them (`export.recalibrate`), optional too: class_offsets float32 (C,),
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

from guard.errors import ExportError
from guard.manifest import Manifest
from guard.module import GuardModule

from .graph import tidy
from .recalibrate import recalibrated

OPSET = 20
OLDEST_OPSET = 18  # what older releases of torch leave when asked for 20
INPUTS = ["images", "threshold"]
OUTPUTS = ["label", "probabilities", "ood_score", "is_ood"]
_PROTOBUF_LIMIT = 2**31 - 2**20


def onnx_bytes(module: GuardModule, manifest: Manifest) -> bytes:
    """Export `module` in float32 with the manifest's threshold as default.

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
    p = manifest.preprocess
    # an even batch of two: a batch of one would be taken for a constant. Its memory is channels-first, so the permuted
    # tensor is contiguous: for channels-last memory torch's pooling traces an as_strided, eight nodes that do nothing
    images = torch.zeros(2, p.channels, p.height, p.width, dtype=torch.uint8).permute(0, 2, 3, 1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        try:
            with _quiet(), torch.no_grad():
                torch.onnx.export(
                    module,
                    (images, torch.tensor(0.0)),
                    str(path),
                    dynamo=True,
                    optimize=True,
                    external_data=False,
                    opset_version=OPSET,
                    dynamic_shapes=({0: "batch"}, None),
                    input_names=INPUTS,
                    output_names=OUTPUTS,
                    verbose=False,
                )
        except Exception as error:
            first = str(error).strip().splitlines()
            raise ExportError(
                f"torch could not write {manifest.backbone} with score {manifest.score} as ONNX: "
                f"{first[0] if first else type(error).__name__}"
            ) from error
        if path.stat().st_size > _PROTOBUF_LIMIT:
            raise ExportError(
                f"the graph has {path.stat().st_size / 2**30:.1f} GiB and one ONNX file holds 2; "
                "use a smaller backbone, or a smaller bank (score knn: max_bank=)"
            )
        model = onnx.load(path)
    _check_opset(model)
    model = tidy(model, threshold=manifest.threshold)
    onnx.checker.check_model(model)
    return recalibrated(model.SerializeToString(), manifest)


def _check_opset(model: onnx.ModelProto) -> None:
    """torch may leave another opset than it was asked for, or operators that only its own runtime knows."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    if foreign or not OLDEST_OPSET <= opset <= OPSET:
        found = f"operators {', '.join(foreign)}" if foreign else f"opset {opset}"
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
