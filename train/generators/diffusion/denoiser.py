"""The networks of the built-in diffusion model: diffusers' UNets with a learned table of class embeddings.

    conditioning "token"   UNet2DConditionModel; e is the one token that all layers with attention attend to
    conditioning "label"   UNet2DModel; e is added to the embedding of the time

e_y is row y of the table, so that any weights of classes have an e: weights @ table. A learned null embedding stands
for no class at all (classifier-free guidance, Ho & Salimans 2022).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from .noise import Noise, Prediction

MOST_LEVELS = 4
SMALLEST = 4  # positions per side of the coarsest level
HEADS = 2
GROUPS = 8


def levels(height: int, width: int) -> int:
    """Resolutions of a UNet on a map of `height` x `width`: halved down to 4 positions per side, 2 to 4 of them."""
    halvings = int(math.log2(max(min(height, width) / SMALLEST, 1)))
    return min(max(halvings + 1, 2), MOST_LEVELS)


def fold_of(height: int, width: int, patch: int | None) -> int:
    """Pixels per side that become channels: `patch`, by default 1 for maps of up to 16 a side and 2 for larger ones."""
    return patch or (1 if max(height, width) <= 16 else 2)


def padded_size(height: int, width: int, patch: int | None) -> tuple[int, int]:
    """The smallest size that covers `height` x `width` and that the UNet halves without a rest."""
    fold = fold_of(height, width, patch)
    for _ in range(MOST_LEVELS):  # what is filled up may be halved once more than it was before
        multiple = fold * 2 ** (levels(-(-height // fold), -(-width // fold)) - 1)
        height, width = -(-height // multiple) * multiple, -(-width // multiple) * multiple
    return height, width


def embedding_width(width: int, conditioning: Literal["token", "label"]) -> int:
    """E: twice the channels at full resolution for a token, the width of the time embedding (4 times) for a label."""
    return (2 if conditioning == "token" else 4) * width


class Denoiser(nn.Module):
    """What a network says of z_t (N, c, h, w) at times (N,), given e (N, E).

    Args:
        shape: (c, h, w), `padded_size`. width: channels at full resolution; deeper levels have twice as many.
        patch: positions per side that are folded into channels first.
        plain_loss: without min-SNR weights.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: int,
        patch: int | None,
        conditioning: Literal["token", "label"],
        prediction: Prediction,
        plain_loss: bool = False,
    ) -> None:
        super().__init__()
        channels, height, across = shape
        self.fold = fold_of(height, across, patch)
        self.by_token, self.prediction, self.plain_loss = conditioning == "token", prediction, plain_loss
        self.embedding_width = embedding_width(width, conditioning)
        self.table = nn.Parameter(torch.randn(classes, self.embedding_width))
        self.null = nn.Parameter(torch.zeros(self.embedding_width))
        self.noise = Noise()
        deeper = levels(height // self.fold, across // self.fold) - 1
        common: dict[str, Any] = {
            "sample_size": (height // self.fold, across // self.fold),
            "in_channels": channels * self.fold**2,
            "out_channels": channels * self.fold**2,
            "block_out_channels": (width, *(2 * width,) * deeper),
            "layers_per_block": 1,
            "norm_num_groups": GROUPS,
        }
        self.unet: Any  # diffusers shows type checkers other classes
        if self.by_token:
            self.unet = UNet2DConditionModel(
                down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deeper),
                up_block_types=(*("CrossAttnUpBlock2D",) * deeper, "UpBlock2D"),
                cross_attention_dim=self.embedding_width,
                attention_head_dim=HEADS,  # of this class, the number of heads
                **common,
            )
        else:
            self.unet = UNet2DModel(
                down_block_types=("DownBlock2D", *("AttnDownBlock2D",) * deeper),
                up_block_types=(*("AttnUpBlock2D",) * deeper, "UpBlock2D"),
                class_embed_type="identity",
                attention_head_dim=2 * width // HEADS,
                **common,
            )
        self.to(memory_format=torch.channels_last)

    def condition(self, classes: Tensor) -> Tensor:
        """Classes int64 (N,), or weights (N, C), -> e (N, E)."""
        if classes.is_floating_point():
            return classes @ self.table
        return self.table[classes]

    def forward(self, z_t: Tensor, times: Tensor, e: Tensor) -> Tensor:
        """eps or v, (N, c, h, w), float32."""
        x = F.pixel_unshuffle(z_t, self.fold) if self.fold > 1 else z_t
        x = x.contiguous(memory_format=torch.channels_last)
        said = self.unet(x, times, e[:, None] if self.by_token else e, return_dict=False)[0].float()
        return F.pixel_shuffle(said, self.fold) if self.fold > 1 else said

    def loss(self, z: Tensor, e: Tensor, times: Tensor, eps: Tensor) -> Tensor:
        """Weighted squared error (N,) that it is trained with."""
        said = self(self.noise.add(z, eps, times), times, e)
        target = self.noise.target(z, eps, times, self.prediction)
        error: Tensor = (said - target).square().mean((1, 2, 3))
        return error if self.plain_loss else self.noise.weight(times, self.prediction) * error

    def noise_loss(self, z: Tensor, e: Tensor, times: Tensor, eps: Tensor) -> Tensor:
        """Mean squared error (N,) of the noise it predicts."""
        z_t = self.noise.add(z, eps, times)
        predicted = self.noise.epsilon(self(z_t, times, e), z_t, times, self.prediction)
        return (predicted - eps).square().mean((1, 2, 3))
