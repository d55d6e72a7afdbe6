"""What each method's outliers look like: one small picture per method, on scikit-learn's digits 0 to 7.

    python -m benchmarks.method_pictures                 # some five minutes of one core; docs/images/methods/NAME.png
    python -m benchmarks.method_pictures vos mim         # these alone

Methods whose outliers a GAN, a pair or a diffusion model makes are left out: their pages show what a larger one
makes of CIFAR-10.

Grey digits of 16 pixels, and networks that are small and train for a moment: the pictures show what a method makes, not
how well. Images: digits in the first row, what the method makes of them in the others. Features: the first two
principal components of the digits' features, a colour per class, and of the outliers, black crosses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import guard
from guard.data import ImageData, load
from guard.graph.module import GuardModule
from guard.runtimes.torch_module import TorchModule
from guard.scores import create_score
from train.engine.modes import evaluating
from train.methods import get_method, list_methods
from train.methods.base import MethodContext
from train.outliers.base import IDBatch, NoOutliers, PrepareContext, Synthesiser
from train.outliers.store.gallery import sheet

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "images" / "methods"
LARGEST = 25_000  # bytes of a picture
COLUMNS, ROWS, ZOOM = 12, 3, 3
BATCH = 32
SEED = 0

CMG = {"cvae": {"width": 16, "latent": 32, "epochs": 60}}

#: options that make a method short
OPTIONS: dict[str, dict[str, Any]] = {
    "cmg_s": CMG,
    "cmg_e": CMG,
    "kirby": {"store_size": 64},
    "npos": {"queue": 100, "k": 30, "select": 20, "n_noise": 200, "classes": 8},
    "vos": {"queue": 100},
    "gcos": {"queue": 100},
}
CIFAR = {"gan", "diffusion", "pair"}  # options of methods whose pages show what they make of CIFAR-10


def digits() -> ImageData:
    """Digits 0 to 7 in grey, 16 pixels, 1,443 images."""
    data = load("digits:0-7")
    assert data.array is not None
    return load((np.ascontiguousarray(data.array[:, ::2, ::2, :1]), np.array(data.labels)), channels=1)


def network(data: ImageData, head: str) -> GuardModule:
    """A WRN-10-2 that knows the digits."""
    g = guard.train(
        (data.array, data.labels),
        backbone="wrn10_2",
        head=head,
        in_chans=1,
        epochs=8,
        batch_size=BATCH,
        device="cpu",
        score="energy",
    )
    assert isinstance(g.runtime, TorchModule)
    return g.runtime.module


def synthesiser(name: str, module: GuardModule, data: ImageData, folder: Path) -> Synthesiser | None:
    """Of the method's stage that has one, ready to sample; None where it makes nothing."""
    method = get_method(name)
    if method.wants_outliers == "required":
        return None
    features, _ = looked_at(module, data)
    assert data.labels is not None
    context = MethodContext(
        num_classes=len(data.class_names),
        num_features=features.shape[1],
        map_shape=None,
        class_counts=tuple(np.bincount(data.labels).tolist()),
        epochs=8,
        lr=0.1,
        batch_size=COLUMNS * (ROWS - 1),
        seed=SEED,
        device=torch.device("cpu"),
        outliers=None,
        initialised=True,
        score=create_score(method.score),
    )
    stages = method(method.Options(**OPTIONS.get(name, {}))).stages(context)
    made = next((stage.synthesiser for stage in stages if stage.synthesiser is not None), None)
    if made is None or isinstance(made, NoOutliers):
        return None
    made.prepare(PrepareContext(module, data, folder / name, SEED, torch.device("cpu")))
    return made


def looked_at(module: GuardModule, data: ImageData) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) and labels of all images."""
    images = torch.from_numpy(np.array(data.array))
    with torch.no_grad(), evaluating(module.classifier):
        parts = [module.classifier(module.normalise(part.float())).features for part in images.split(256)]
    return torch.cat(parts), torch.from_numpy(np.array(data.labels))


def batch_of(data: ImageData, count: int, seed: int) -> IDBatch:
    """As many images of each class, in turn."""
    labels = np.array(data.labels)
    rng = np.random.default_rng(seed)
    order = [rng.permutation(np.flatnonzero(labels == c)) for c in range(len(data.class_names))]
    rows = np.array([order[i % len(order)][i // len(order)] for i in range(count)])
    return IDBatch(torch.from_numpy(data.take(rows)), torch.from_numpy(labels[rows]), torch.from_numpy(rows))


def image_picture(made: Synthesiser, data: ImageData) -> Image.Image:
    generator = torch.Generator().manual_seed(SEED)
    wanted, strange = COLUMNS * (ROWS - 1), torch.empty(0)
    made.start_epoch(8, generator)
    while len(strange) < wanted:
        sample = made.sample(batch_of(data, wanted, SEED), generator)
        new = sample.data if sample.labels is None else sample.data[sample.labels < 0]
        strange = torch.cat([strange, new]) if len(strange) else new
    shown = torch.cat([batch_of(data, COLUMNS, SEED).images, strange[:wanted]])
    return Image.fromarray(sheet(shown.numpy(), COLUMNS).squeeze(-1))


def feature_picture(made: Synthesiser, module: GuardModule, data: ImageData) -> Image.Image:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    generator = torch.Generator().manual_seed(SEED)
    features, labels = looked_at(module, data)
    for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
        made.observe(features[rows], labels[rows])
    made.start_epoch(10, generator)
    sampled = [made.sample(batch_of(data, BATCH, step), generator).data for step in range(10)]
    outliers = torch.cat(sampled)
    outliers = outliers[torch.randperm(len(outliers), generator=generator)[:80]]
    axes = torch.linalg.svd(features - features.mean(0), full_matrices=False).Vh[:2].T
    plain, strange = ((x - features.mean(0)) @ axes for x in (features, outliers))
    figure, axis = plt.subplots(figsize=(4, 3), dpi=90, layout="constrained")
    axis.scatter(*plain.T, c=labels, cmap="Set2", s=3, linewidths=0)
    axis.scatter(*strange.T, c="black", marker="x", s=14, linewidths=0.8)
    axis.set(xticks=[], yticks=[], xlabel="first component", ylabel="second")
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    plt.close(figure)
    return picture.quantize(48, dither=Image.Dither.NONE)


def draw(name: str, modules: dict[str, GuardModule], data: ImageData, folder: Path) -> Path | None:
    """Write the method's picture; None where it has none. `modules`: trained networks by head."""
    head = get_method(name).head
    head = "linear" if head == "c_plus_1" else head
    if head not in modules:
        modules[head] = network(data, head)
    made = synthesiser(name, modules[head], data, folder)
    if made is None:
        return None
    if made.space == "feature":
        picture = feature_picture(made, modules[head], data)
    else:
        picture = image_picture(made, data)
    if picture.width < 300:
        picture = picture.resize((ZOOM * picture.width, ZOOM * picture.height), Image.Resampling.NEAREST)
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    picture.save(path, optimize=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--folder", type=Path, help="keeps generators, for the next time")
    asked = parser.parse_args()
    names = asked.methods or [n for n in list_methods() if not CIFAR & get_method(n).Options.model_fields.keys()]
    data, modules = digits(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        for name in names:
            start = time.perf_counter()
            path = draw(name, modules, data, folder)
            size = path.stat().st_size if path else 0
            print(f"{name}: {f'{size} bytes' if path else 'none'}, {time.perf_counter() - start:.0f} s", flush=True)
            if size > LARGEST:
                sys.exit(f"{path} has {size} bytes, more than {LARGEST}")


if __name__ == "__main__":
    main()
