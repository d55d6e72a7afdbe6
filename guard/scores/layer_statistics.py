"""What scores of intermediate layers make of a layer's map: channels first, and each channel's mean and deviation."""

from __future__ import annotations

from torch import Tensor

from ..errors import ConfigError, ModelError


def given_summary(feature_map: Tensor | None, score: str) -> Tensor:
    """The summary of its layers that a score of this name reads; ConfigError where there is none."""
    if feature_map is None:
        raise ConfigError(f"score {score!r} reads intermediate layers; give their summary as feature_map")
    return feature_map


def channels_first(layer_map: Tensor) -> Tensor:
    """(N, c, S) of what a layer gives: (N, c), tokens (N, L, c), a map (N, c, h, w), or one with channels last.

    A square map whose last side differs has its channels there (Swin, ConvNeXt variants): inputs are square.
    """
    if layer_map.ndim == 2:
        return layer_map[..., None]
    if layer_map.ndim == 3:
        return layer_map.transpose(1, 2)
    if layer_map.ndim == 4:
        _, first, second, third = layer_map.shape
        if first == second != third:
            layer_map = layer_map.permute(0, 3, 1, 2)
        return layer_map.flatten(2)
    raise ModelError(f"scores of layers read maps of 2, 3 or 4 dimensions, a layer gives {tuple(layer_map.shape)}")


def means_and_deviations(layer_map: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Each channel's mean and standard deviation over its positions, both (N, k), in float32.

    Of a map with more than `channels` channels k <= channels are read, at equal distances. The deviation is that of
    all S positions (divided by S), 0 where there is one.
    """
    rows = channels_first(layer_map)
    step = -(-rows.shape[1] // channels)
    rows = (rows if step == 1 else rows[:, ::step]).float()
    mean = rows.mean(-1)
    centred = rows - mean[..., None]
    return mean, (centred * centred).mean(-1).sqrt()  # ONNX Runtime's ReduceL2 takes six times its ReduceMean
