"""What work takes, by times that papers report for a named GPU: the rule of ``guard benchmark --plan``.

A plan counts multiply-adds of networks and calls of Stable Diffusion's, and divides by these. It is an estimate: a
small network on small images does fewer multiply-adds in a second than the one that was timed, a newer GPU more.
"""

from __future__ import annotations

from dataclasses import dataclass

HOUR = 3600.0


@dataclass(frozen=True)
class Speed:
    """Attributes:
    gpu: what was timed.
    per_second: how many `unit`.
    origin: the reported time, and where.
    """

    gpu: str
    unit: str
    per_second: float
    origin: str


BACKWARD = 3  # a training step on an image costs as much as three forward passes

_RESNET18 = 1.82e9  # multiply-adds of a ResNet-18's forward pass at 224 pixels
NETWORKS = Speed(
    "V100",
    "multiply-adds of networks",
    100 * 50_000 * BACKWARD * _RESNET18 / (2.4 * HOUR),
    "2.4 h for 100 epochs of a ResNet-18 on 50,000 images of 224 pixels (Gao, He & Pu, section 4.2: post-hoc methods "
    "on CIFAR-100)",
)
DENOISING = Speed(
    "V100",
    "calls of Stable Diffusion's network at 512 pixels",
    300 * 50 * 2 / (0.5 * HOUR),
    "0.5 h for 300 latents of 50 steps, two calls each with guidance (Gao, He & Pu, section 4.2)",
)
TUNING = Speed(
    "A100",
    "calls of it with gradients, to tune embeddings",
    50_000 * 3 * 32 / (13 * 8 * HOUR),
    "13 h of 8 GPUs for 50,000 images, 3 steps of 32 noises each (Doorenbos et al., section 5.2)",
)
INVARIANTS = Speed(
    "RTX 3090",
    "embeddings shown to the volume-preserving network",
    200 * 50_000 / (35 * 60),
    "30 to 40 min for 200 epochs of 50,000 embeddings (Doorenbos et al., section 5.2)",
)
EVERY = (NETWORKS, DENOISING, TUNING, INVARIANTS)
