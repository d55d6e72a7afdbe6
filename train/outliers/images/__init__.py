"""Outliers in pixel space, one file each; `train.outliers.base` lists them by name. Those of one paper's method are
in its file of `train.methods`.

pixel_average    means of k images of different classes (MIM)
patch_shuffle    patches of one image in another order
patch_mix        a mosaic of patches from k images of different classes
mask_mix         curved pieces of k images of different classes
drawn            fractals, waves and noise that the program draws
warp             images bent out of shape by a smooth random field
phase_mix        one image's power spectrum with the phases of k images of different classes
rotation         images turned by 90, 180 or 270 degrees
smooth_noise     flat colours and noise of a random power law
low_pass_noise   shuffled pixels and uniform noise, low-pass filtered (CEDA)
adversarial_noise  the noise nearby that the network is surest of (ACET)
salient_pixels   pixels that speak for the class permuted, or moved along its logit's gradient (ASCOOD)
strokes          a few curved strokes on a flat ground
blurred_object   the object blurred, found by a detector or a class activation map (FodFoM)
"""

from .adversarial_noise import AdversarialNoise
from .blurred_object import BlurredObject
from .drawn import Drawn
from .low_pass_noise import LowPassNoise
from .mask_mix import MaskMix
from .patch_mix import PatchMix
from .patch_shuffle import PatchShuffle
from .phase_mix import PhaseMix
from .pixel_average import PixelAverage
from .rotation import Rotation
from .salient_pixels import SalientPixels
from .smooth_noise import SmoothNoise
from .strokes import Strokes
from .warp import Warp

__all__ = [
    "AdversarialNoise",
    "BlurredObject",
    "Drawn",
    "LowPassNoise",
    "MaskMix",
    "PatchMix",
    "PatchShuffle",
    "PhaseMix",
    "PixelAverage",
    "Rotation",
    "SalientPixels",
    "SmoothNoise",
    "Strokes",
    "Warp",
]
