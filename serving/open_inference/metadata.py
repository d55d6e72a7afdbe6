"""What a guard takes and gives in the protocol's terms, and what it says about itself."""

from __future__ import annotations

from typing import get_args

import guard
from guard.manifest import Manifest

from .schemas import ModelMetadata, OutputName, ServerMetadata, TensorMetadata

SERVER = ServerMetadata(name="ood-guard", version=guard.__version__, extensions=("binary_tensor_data",))
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "torch": "pytorch"}


def version(manifest: Manifest) -> str:
    """The artefact's short hash: what follows @ in its identity."""
    return manifest.identity.rpartition("@")[2]


def inputs(manifest: Manifest) -> dict[str, TensorMetadata]:
    """By name."""
    size = manifest.preprocess
    every = (
        TensorMetadata(name="images", datatype="UINT8", shape=(-1, size.height, size.width, size.channels)),
        TensorMetadata(name="encoded", datatype="BYTES", shape=(-1,)),
        TensorMetadata(name="threshold", datatype="FP32", shape=(1,)),
    )
    return {tensor.name: tensor for tensor in every}


def outputs(manifest: Manifest) -> dict[str, TensorMetadata]:
    """By name, in the order of an answer that nobody chose."""
    datatypes = {"label": "INT64", "probabilities": "FP32", "ood_score": "FP32", "is_ood": "BOOL", "p_value": "FP64"}
    wide = {"probabilities": (-1, len(manifest.class_names))}
    return {name: TensorMetadata(name=name, datatype=datatypes[name], shape=wide.get(name, (-1,))) for name in OUTPUTS}


def model_metadata(name: str, manifest: Manifest, runtime: str) -> ModelMetadata:
    """Of the model that is served under `name` and run by the runtime of that name."""
    return ModelMetadata(
        name=name,
        versions=(version(manifest),),
        platform=_PLATFORMS.get(runtime, runtime),
        inputs=tuple(inputs(manifest).values()),
        outputs=tuple(outputs(manifest).values()),
    )
