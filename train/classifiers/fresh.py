"""Classifiers by name, with fresh or published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from guard.data import ImageData
from guard.graph.outputs import Classifier
from guard.heads import create_head
from guard.manifest import Normalisation

from ..backbones import create_backbone, pretrained_normalisation, takes_img_size
from .input import data_normalisation

if TYPE_CHECKING:
    from ..runs.request import TrainConfig

CUSTOM = "custom"  # the backbone name of a model that ood-guard cannot build by itself


def build_classifier(
    backbone: str,
    head: str,
    num_classes: int,
    *,
    in_chans: int,
    image_size: int | tuple[int, int],
    pretrained: bool | str = False,
    head_options: Mapping[str, Any] | None = None,
) -> Classifier:
    """A backbone and a head."""
    network = create_backbone(backbone, in_chans=in_chans, image_size=image_size, pretrained=pretrained)
    return Classifier(network, create_head(head, network.num_features, num_classes, **head_options or {}))


def fresh_classifier(config: TrainConfig, data: ImageData) -> tuple[Classifier, Normalisation]:
    """The classifier that `config` names, for the classes of `data`; and the normalisation of its input, that of the
    published weights or else of the data."""
    classifier = build_classifier(
        config.backbone,
        config.head,
        len(data.class_names),
        in_chans=config.in_chans,
        image_size=config.image_size,
        pretrained=config.pretrained,
        head_options=config.head_options,
    )
    published = pretrained_normalisation(classifier.backbone, config.in_chans) if config.pretrained else None
    return classifier, published or data_normalisation(data)


def timm_model(
    name: str, num_classes: int, in_chans: int, image_size: int | tuple[int, int], pretrained: bool = False
) -> nn.Module:
    """A whole timm classifier; vision transformers get the image size."""
    import timm

    extra: dict[str, Any] = {"img_size": image_size} if takes_img_size(name) else {}
    model: nn.Module = timm.create_model(
        name, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, **extra
    )
    return model
