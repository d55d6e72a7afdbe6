"""Tiny Hugging Face classifiers of every shape, randomly initialised, and images of four colours for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import nn

NAMES = ("red", "blue", "grey", "green")  # in the order of the logits; folders sort otherwise
COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200), "grey": (128, 128, 128), "green": (60, 200, 60)}

_LABELS: dict[str, Any] = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    **_LABELS,
}

MODELS: dict[str, Callable[[], Any]] = {
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_TRANSFORMER)),
    "deit": lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**_TRANSFORMER)),
    "beit": lambda: hf.BeitForImageClassification(hf.BeitConfig(**_TRANSFORMER)),
    "dinov2": lambda: hf.Dinov2ForImageClassification(
        hf.Dinov2Config(**{k: v for k, v in _TRANSFORMER.items() if k != "intermediate_size"})
    ),
    "swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4, **_LABELS)
    ),
    "resnet": lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", **_LABELS
        )
    ),
    "convnext": lambda: hf.ConvNextForImageClassification(
        hf.ConvNextConfig(image_size=32, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], **_LABELS)
    ),
    "mobilenet_v2": lambda: hf.MobileNetV2ForImageClassification(
        hf.MobileNetV2Config(image_size=32, depth_multiplier=0.25, **_LABELS)
    ),
}


def two_heads() -> Any:
    """DeiT with a distillation head: its logits are the mean of two linear layers' of two tokens."""
    return hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**_TRANSFORMER))


def made(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def processor(**options: Any) -> Any:
    """Stretches to 32 x 32 pixels with Pillow."""
    return hf.ViTImageProcessorPil(
        **{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], **options}
    )


def coloured(name: str, count: int, size: tuple[int, int] = (24, 20)) -> list[np.ndarray]:
    """uint8 (height, width, 3) images of one colour with noise."""
    rng = np.random.default_rng(NAMES.index(name))
    noise = rng.integers(-40, 41, (count, *size, 3))
    return list((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8))


def taught(model: Any, process: Any) -> Any:
    """`model` with a last layer that tells the colours apart: least squares on its features."""
    images = [image for name in NAMES for image in coloured(name, 24)]
    targets = torch.eye(len(NAMES)).repeat_interleave(24, 0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:  # with fresh statistics an untrained network's signal dies on the way
        for norm in norms:
            norm.momentum = 1.0
        model.train()(**process(images, return_tensors="pt"))
    model.eval()
    layer = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(**process(images, return_tensors="pt"))
        handle.remove()
        features = torch.cat([seen[0], torch.ones(len(images), 1)], 1).double()
        ridge = features.T @ features + 1e-6 * torch.eye(features.shape[1])
        weights = torch.linalg.solve(ridge, features.T @ (8 * targets.double())).float()
        layer.weight.copy_(weights[:-1].T)
        layer.bias.copy_(weights[-1])
    return model
