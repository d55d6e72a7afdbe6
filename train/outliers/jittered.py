"""The augmentation of outliers in MIM's official code: colour jitter and an affine map, for half of the images.

torchvision's ColorJitter(0.5, 0.3, 0.3, 0.3) (brightness, contrast, saturation, hue), then RandomAffine(90,
translate=(0.2, 0.2)), nearest pixels. Choi & Na, AAAI 2024 workshop.
"""

from __future__ import annotations

import torch

from .base import Changed, IDBatch, Outliers, Synthesiser


class Jittered(Changed):
    """Another synthesiser's images, half of them jittered and mapped anew in every step.

    torchvision draws from torch's own generator on the host, which every epoch seeds.
    """

    def __init__(self, synthesiser: Synthesiser) -> None:
        from torchvision.transforms import ColorJitter, RandomAffine  # a second to import

        super().__init__(synthesiser)
        self.jitter, self.affine = ColorJitter(0.5, 0.3, 0.3, 0.3), RandomAffine(90, translate=(0.2, 0.2))

    def change(self, made: Outliers, batch: IDBatch, generator: torch.Generator) -> Outliers:
        chosen = (torch.rand(len(made.data)) < 0.5).tolist()
        pairs = zip(made.data.permute(0, 3, 1, 2), chosen, strict=True)
        images = [self.affine(self.jitter(image)) if jittered else image for image, jittered in pairs]
        data = torch.stack(images).permute(0, 2, 3, 1).contiguous()
        return made._replace(data=data, origin=f"{made.origin}, jittered")
