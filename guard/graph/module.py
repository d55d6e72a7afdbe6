"""`GuardModule`: the one graph. Training evaluates it, export writes it, runtimes run it.

    images uint8 (N, H, W, channels) --cast, permute, normalise--> classifier --> features, logits
    logits --> label, probabilities;   features, logits --score--> ood_score;   not (ood_score <= threshold) --> is_ood

The cast comes before the permute: TensorRT has no uint8 transpose.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..calibration.decision_rule import flagged
from ..manifest import Normalisation
from ..scores.base import Score
from .layer_maps import with_layers
from .mirror import with_mirror
from .outputs import FeatureClassifier, Outputs
from .turns import with_turns


def planes(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Pixels (N, H, W, channels) as float (N, channels, H, W), in the order in which the network takes the colours."""
    x = images.to(torch.float32).permute(0, 3, 1, 2)
    return x[:, [2, 1, 0]] if normalisation.channel_order == "bgr" else x


class GuardModule(nn.Module):
    """Everything from the uint8 pixels on.

    Args:
        classifier: `Classifier`, `HookedClassifier` or another `FeatureClassifier`.
        score: fitted, or about to be.
        normalisation: (pixel / 255 - mean) / std, written as pixel * scale + shift, and the order of the colours.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: FeatureClassifier, score: Score, normalisation: Normalisation) -> None:
        super().__init__()
        self.classifier = classifier
        self.score = score
        self.normalisation = normalisation
        mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, channels) -> float (N, channels, H, W); RGB memory stays channels-last."""
        return planes(images, self.normalisation) * self.scale + self.shift

    def outputs(self, images: Tensor) -> Outputs:
        """Features, logits and map of uint8 images."""
        return self.look(self.normalise(images))

    def look(self, x: Tensor) -> Outputs:
        """`outputs` of normalised images; the map of a score that reads layers is its summary of them, and that of one
        that needs turned images is their features. With ``mirror=True`` all is the mean of image and mirror image."""
        if "turned images" in self.score.needs:
            return with_turns(self.classifier, x)
        if "mirror image" in self.score.needs:
            return with_mirror(self.classifier, x, self.score)
        return with_layers(self.classifier, x, self.score)

    def shown(self, images: Tensor) -> tuple[Outputs, Outputs]:
        """What the classifier says of the images, and what the score reads: two things where it perturbs images."""
        x = self.normalise(images)
        if "input gradient" in self.score.needs:
            outputs, x = self.score.perturb(x, self.look, 255 * self.scale)
            return outputs, self.look(x)
        outputs = self.look(x)
        return outputs, outputs

    def forward(self, images: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """label int64 (N,), probabilities (N, C), ood_score (N,), is_ood bool (N,)."""
        outputs, read = self.shown(images)
        ood_score = self.score(*read)
        return outputs.logits.argmax(-1), outputs.logits.softmax(-1), ood_score, flagged(ood_score, threshold)
