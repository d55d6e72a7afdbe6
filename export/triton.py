"""A model repository for NVIDIA's Triton Inference Server, whose ONNX Runtime backend runs the guard's own file.

    models/animals/config.pbtxt     inputs, outputs, dynamic batching, warm-up
    models/animals/labels.txt       class names, of the output `probabilities`
    models/animals/1/model.onnx     the guard, as `guard.load` reads it, too; the next export is version 2

    tritonserver --model-repository=models

Clients send `images` alone: thresholds and temperature are the graph's own defaults. Triton batches requests along the
first dimension; an output with no other, (N,), is declared as (N, 1) and reshaped, as its documentation says.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from guard.artefact.files import read_onnx, write_atomic
from guard.errors import ExportError
from guard.manifest import Manifest

CONFIG, LABELS, MODEL = "config.pbtxt", "labels.txt", "model.onnx"
QUEUE_MICROSECONDS = 500  # that a request waits for others to share its batch


def next_version(folder: Path) -> Path:
    """The folder of the model's next version: 1, or one after the latest.

    Raises:
        ExportError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).exists())):
        raise ExportError(
            f"{folder} is not a model of a Triton repository; give a folder that is empty, or not there yet, like "
            "models/animals"
        )
    versions = [int(entry.name) for entry in folder.glob("*") if entry.name.isdigit()]
    return folder / str(max(versions, default=0) + 1)


def write_model(exported: Path, folder: Path, *, max_batch: int) -> Path:
    """Put an exported file, and what Triton must know of it, into the model's folder; the folder.

    Args:
        exported: the ``.onnx`` file.
        folder: of the model, in the repository; its name is the model's.
        max_batch: images in a batch that Triton makes.
    """
    version, manifest = next_version(folder), read_onnx(exported)[1]
    draft = version.with_name(f".{version.name}.new")  # Triton loads versions whole: a number appears when all is there
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shutil.copyfile(exported, draft / MODEL)
    write_atomic(folder / LABELS, ("\n".join(manifest.class_names) + "\n").encode())
    write_atomic(folder / CONFIG, config(folder.name, manifest, max_batch).encode())
    draft.rename(version)
    return folder


def config(name: str, manifest: Manifest, max_batch: int) -> str:
    """``config.pbtxt``: Triton's ModelConfig in protobuf's text format."""
    p = manifest.preprocess
    pixels = [p.height, p.width, p.channels]
    one = {"dims": [1], "reshape": {"shape": []}}
    outputs: list[dict[str, Any]] = [
        {"name": "label", "data_type": _Word("TYPE_INT64"), **one},
        {
            "name": "probabilities",
            "data_type": _Word("TYPE_FP32"),
            "dims": [len(manifest.class_names)],
            "label_filename": LABELS,
        },
        {"name": "ood_score", "data_type": _Word("TYPE_FP32"), **one},
        {"name": "is_ood", "data_type": _Word("TYPE_BOOL"), **one},
    ]
    zeros = {"data_type": _Word("TYPE_UINT8"), "dims": pixels, "zero_data": True}
    warm_up = [
        {"name": f"batch of {size}", "batch_size": size, "inputs": {"key": "images", "value": zeros}}
        for size in sorted({1, max_batch})
    ]
    return _message(
        {
            "name": name,
            "backend": "onnxruntime",
            "max_batch_size": max_batch,
            "input": [{"name": "images", "data_type": _Word("TYPE_UINT8"), "dims": pixels}],
            "output": outputs,
            "dynamic_batching": {"max_queue_delay_microseconds": QUEUE_MICROSECONDS},
            "model_warmup": warm_up,
            "parameters": {"key": "ood_guard", "value": {"string_value": manifest.identity}},
        }
    )


class _Word(str):
    """An enumeration's value, which is written without quotes."""


def _message(fields: dict[str, Any], indent: str = "") -> str:
    """Protobuf's text format; a list of messages is a repeated field."""
    lines = []
    for name, value in fields.items():
        messages = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        for item in messages:
            if isinstance(item, dict):
                lines.append(f"{indent}{name} {{\n{_message(item, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, _Word) else json.dumps(value)
