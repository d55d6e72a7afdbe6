"""Outliers in pixel space, one file each; `train.outliers.base` lists them by name.

pixel_average    means of k images of different classes (MIM)
patch_shuffle    patches of one image in another order
patch_mix        a mosaic of patches from k images of different classes
phase_mix        one image's power spectrum with the phases of k images of different classes
rotation         images turned by 90, 180 or 270 degrees
smooth_noise     flat colours and noise of a random power law
low_pass_noise   shuffled pixels and uniform noise, low-pass filtered (CEDA)
adversarial_noise  the noise nearby that the network is surest of (ACET)
strokes          a few curved strokes on a flat ground
blurred_object   the object blurred, found by a detector or a class activation map (FodFoM)
fodfom           decoded from beyond the edge of a class in a diffusion model's conditioning space (FodFoM)
label_mixup      decoded from two classes at once by a diffusion model, trained first
dream            decoded noise around features in a diffusion model's conditioning space (dream_ood, dream_id)
bood             decoded features that were pushed over the boundary to another class, in the same space
ncis             decoded from low density among non-linear invariants of prompt-tuned embeddings
decoded          what dream and bood share: embeddings that are found first, decoded, resized (no name of its own)
"""

from .adversarial_noise import AdversarialNoise
from .blurred_object import BlurredObject
from .bood import BOOD
from .dream import DreamID, DreamOOD
from .fodfom import FodFoM
from .label_mixup import LabelMixup
from .low_pass_noise import LowPassNoise
from .ncis import NCIS
from .patch_mix import PatchMix
from .patch_shuffle import PatchShuffle
from .phase_mix import PhaseMix
from .pixel_average import PixelAverage
from .rotation import Rotation
from .smooth_noise import SmoothNoise
from .strokes import Strokes

__all__ = [
    "BOOD",
    "NCIS",
    "AdversarialNoise",
    "BlurredObject",
    "DreamID",
    "DreamOOD",
    "FodFoM",
    "LabelMixup",
    "LowPassNoise",
    "PatchMix",
    "PatchShuffle",
    "PhaseMix",
    "PixelAverage",
    "Rotation",
    "SmoothNoise",
    "Strokes",
]
