"""Do their JPEG files tell the sets of transfer_textures.yaml apart? Both are coded alike, and measured again.

    python -m benchmarks.photo_coding RUN TEXTURES.parquet FLOWERS.parquet blotchy bumpy crosshatched   # 3 minutes

RUN is a folder of that benchmark, trained without the classes that are named. Each image becomes the input of the
network, then all are coded once as JPEG of one quality and subsampling. The scores stay as they were fitted.
"""

from __future__ import annotations

import argparse
import io
from typing import Any

import numpy as np
from PIL import Image

import guard
from guard.data import load
from guard.data.held_out import Draw
from guard.data.left_out import leave_out
from guard.evaluation.metrics import auroc

QUALITY, IMAGES = 75, 300
SCORES: dict[str, dict[str, Any]] = {
    "energy": {},
    "vim": {},
    "energy+mahalanobis": {"part_options": {"mahalanobis": {"normalise": 1.0}}},
}


def coded(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) through JPEG."""
    found = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
        found.append(np.asarray(Image.open(file)))
    return np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("textures")
    parser.add_argument("flowers")
    parser.add_argument("left_out", nargs="+")
    a = parser.parse_args()
    trained = guard.load(a.run, device="cpu")
    inside, near = leave_out(load(a.textures, preprocess=trained.manifest.preprocess), a.left_out)
    draw = Draw.of_guard(trained.manifest, inside)
    if draw is None:
        raise SystemExit(f"{a.run} was not trained on {a.textures} without {', '.join(a.left_out)}")
    test = inside.take(draw.rows(inside)["test"])
    far = load(a.flowers, preprocess=trained.manifest.preprocess, labelled=False, max_images=IMAGES, draw=0)
    sets = {"near": near.take(np.arange(min(IMAGES, len(near)))), "far": far.take(np.arange(len(far)))}
    for name, options in SCORES.items():
        g = guard.fit(trained, inside, score=name, score_options=options, device="cpu")
        for how, change in (("as they are", lambda images: images), ("coded alike", coded)):
            scores = g.predict(change(test)).ood_score
            numbers = {key: auroc(scores, g.predict(change(images)).ood_score) for key, images in sets.items()}
            print(f"{name}, {how}: " + ", ".join(f"{key} {100 * value:.1f}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
