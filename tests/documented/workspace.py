"""The folder in which the documentation's blocks run: under the names that they use, small images of four classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import guard
from guard.data import load
from tests import published
from tests.tiny_stable_diffusion import WORDS, save_tiny_pipeline
from tests.toy_diffusion import ToyDiffusion

ROOT = Path(__file__).parents[2]
SIDE = 32
CLASSES = ("aquarium_fish", "maple_tree", "seal", "tulip")
PER_CLASS = 40

#: names in the pages -> what is there
LABELLED = (
    *("path/to/images", "path/to/labelled", "path/to/new_images", "images", "PATH", "DATA", "test_images"),
    *("animals/train", "animals/test", "cifar10/test"),
)
STRANGE = (
    *("path/to/other/images", "path/ood", "path/letters", "OTHER_IMAGES", "FRACTALS"),
    *("dtd/images", "places/val_256"),
)
PARQUET = ["cifar10/train.parquet", "svhn.parquet"]
RUNS = ["runs/a", "runs/plain", "runs/animals"]
EXPORTS = ["guard.onnx", "animals.onnx", "new.onnx"]
DATA = "path/to/images"

#: what a block defines -> the module that the page says it is in, and the lines above it there
MODULES = {
    "stylegan_xl": (
        "my_generators.py",
        "from tests.documented.workspace import networks_with_weights\n"
        "from train.generators.latent_pair import StyleGANPair\n",
    )
}


def build(folder: Path) -> None:
    """Everything that a page may name, except what its own blocks make."""
    photographs(folder)
    networks(folder)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    data = str(folder / DATA)
    g = guard.train(
        data, backbone="wrn10_2", score="energy", epochs=3, batch_size=16, device="cpu", out=folder / RUNS[0]
    )
    guard.export(g, folder / RUNS[0] / "guard.onnx")
    for run in RUNS[1:]:
        shutil.copytree(folder / RUNS[0], folder / run)
    for name in EXPORTS:
        shutil.copy(folder / RUNS[0] / "guard.onnx", folder / name)
    guard.scan(folder / EXPORTS[0], data, out=folder / "scanned", workers=0)
    shutil.copy(next((folder / "scanned").glob("*.parquet")), folder / "verdicts.parquet")


def photographs(folder: Path) -> None:
    """Folders of images, two Parquet files, and one photograph."""
    digits = load("digits:0-7")
    assert digits.array is not None
    assert digits.labels is not None
    labels = np.asarray(digits.labels)
    for place, shown in (("known", range(4)), ("strange", range(4, 8))):
        for digit in shown:
            inside = folder / place / CLASSES[digit % 4]
            inside.mkdir(parents=True)
            for number, pixels in enumerate(digits.array[labels == digit][:PER_CLASS]):
                Image.fromarray(pixels).save(inside / f"{number}.png")
    for names, place in ((LABELLED, "known"), (STRANGE, "strange")):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(folder / place)
    for name in PARQUET:
        _write_parquet(folder / name, folder / "known")
    Image.fromarray(digits.array[0]).resize((64, 48)).save(folder / "photo.jpg")


def _write_parquet(path: Path, images: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    files = sorted(images.rglob("*.png"))
    rows = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [CLASSES.index(file.parent.name) for file in files],
    }
    parquet.write_table(pa.table(rows), path)


def networks(folder: Path) -> None:
    """Published weights, a Hugging Face model, an ONNX file and a pipeline: tiny ones, with random weights."""
    teacher = folder / "path/to/timm_folder"
    for name in (teacher, folder / "timm/vit_small_patch14_dinov2.lvd142m"):
        name.parent.mkdir(parents=True, exist_ok=True)
        published.write(name)
    shutil.copy(teacher / "model.safetensors", folder / "resnet50.safetensors")
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic",
        id2label=dict(enumerate(CLASSES)), label2id={name: i for i, name in enumerate(CLASSES)},
    )  # fmt: skip
    ResNetForImageClassification(config).save_pretrained(folder / "path/to/hf_folder")
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "path/to/hf_folder")
    shape = ({0: torch.export.Dim("batch")},)
    example = torch.zeros(2, 3, SIDE, SIDE)
    torch.onnx.export(classifier(), (example,), str(folder / "classifier.onnx"), dynamic_shapes=shape, verbose=False)
    shutil.copy(folder / "classifier.onnx", folder / "model.onnx")
    pipeline = save_tiny_pipeline(folder / "path/to/pipeline", (*WORDS, "aquarium", "fish", "maple", "tree", "seal"))
    shutil.copytree(pipeline, folder / "CompVis/stable-diffusion-v1-4")
    (folder / "xl.safetensors").write_bytes((teacher / "model.safetensors").read_bytes())


def classifier() -> nn.Sequential:
    """Images (N, 3, H, W) -> logits of the four classes."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, len(CLASSES))
    return nn.Sequential(*layers).eval()


def names() -> dict[str, Any]:
    """What the blocks of Python speak of without making it."""
    whole = classifier()
    images = np.stack([np.asarray(Image.open(f)) for f in sorted(Path(DATA).resolve().rglob("*.png"))[::12]])
    g = SimpleNamespace(mapping=_mapping, synthesis=_synthesis, z_dim=64, c_dim=4)
    return {
        "guard": guard,
        "g": guard.load(EXPORTS[0], device="cpu"),
        "data": DATA,
        "images": images,
        "pixels": images[:2],
        "features": lambda x: whole[:-1](x),
        "logits": lambda h: whole[-1](h),
        "model": _timm_model(),
        "my_model": _timm_model(),
        "my_timm_model": _timm_model(),
        "my_torch_model": whole,
        "MyDiffusion": _MyDiffusion,
        "G": g,
        "networks_with_weights": networks_with_weights,
    }


def _timm_model() -> nn.Module:
    """One that says of itself that it was made for small images."""
    import timm

    size = {"input_size": (3, SIDE, SIDE)}
    model: nn.Module = timm.create_model(
        published.ARCHITECTURE, num_classes=len(CLASSES), pretrained_cfg_overlay=size
    ).eval()
    return model


def networks_with_weights(path: str) -> tuple[Any, Any]:
    """As docs/methods/dmr.md calls it; the weights at `path` are not read."""
    return _mapping, _synthesis


class _MyDiffusion(ToyDiffusion):
    """Called as docs/diffusion.md calls it."""

    def __init__(self, device: Any, steps: int) -> None:
        data = SimpleNamespace(preprocess=SimpleNamespace(height=SIDE, width=SIDE, channels=3), class_names=CLASSES)
        super().__init__(SimpleNamespace(data=data), None)  # type: ignore[arg-type]


def _mapping(z: Tensor, c: Tensor | None, truncation_psi: float) -> Tensor:
    """w (N, 4, 64): a class moves the mean."""
    mean = torch.zeros(len(z), 1) if c is None else c.argmax(-1, keepdim=True).float()
    return (mean + truncation_psi * z)[:, None].repeat(1, 4, 1)


def _synthesis(w: Tensor, noise_mode: str) -> Tensor:
    """Stripes whose colours are the first styles' numbers."""
    return w[:, 0, :48].reshape(-1, 3, 16, 1).tanh().expand(-1, -1, 16, 16)
