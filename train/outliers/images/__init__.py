"""Outliers in pixel space, one file each; `train.outliers.base` lists them by name.

given            images of the user's own, or a store
mixture          several sources, with weights
pixel_average    means of k images of different classes (MIM)
patch_shuffle    patches of one image in another order
patch_mix        a mosaic of patches from k images of different classes
phase_mix        one image's power spectrum with the phases of k images of different classes
rotation         images turned by 90, 180 or 270 degrees
smooth_noise     flat colours and noise of a random power law
low_pass_noise   shuffled pixels and uniform noise, low-pass filtered (CEDA)
adversarial_noise  the noise nearby that the network is surest of (ACET)
strokes          a few curved strokes on a flat ground
latent_arithmetic  means of latents, latents less their class's mean, or both, decoded (mlm, dmr, dmr_mlm)
kirby            key regions found by LayerCAM and inpainted (KIRBY)
blurred_object   the object blurred, found by a detector or a class activation map (FodFoM)
fodfom           decoded from beyond the edge of a class in a diffusion model's conditioning space (FodFoM)
gan              samples of a DCGAN, trained first (or beside the classifier: method gan)
cmg              decoded from mixed class embeddings by a conditional VAE, trained first
label_mixup      decoded from two classes at once by a diffusion model, trained first
dream            decoded noise around features in a diffusion model's conditioning space (dream_ood, dream_id)
bood             decoded features that were pushed over the boundary to another class, in the same space
ncis             decoded from low density among non-linear invariants of prompt-tuned embeddings
decoded          what dream and bood share: embeddings that are found first, decoded, resized (no name of its own)
auxiliary_latents  crafted latents of a DCGAN, with and without a class (method atol; no name of its own)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.errors import ConfigError

from ..base import OutlierMix, Synthesiser, create_synthesiser
from ..store.store import Stored
from .adversarial_noise import AdversarialNoise
from .auxiliary_latents import AuxiliaryLatents
from .blurred_object import BlurredObject
from .bood import BOOD
from .cmg import ClassMixed
from .dream import DreamID, DreamOOD
from .fodfom import FodFoM
from .gan import JointGAN, PretrainedGAN
from .given import Given
from .kirby import KIRBY
from .label_mixup import LabelMixup
from .latent_arithmetic import DMR, DMRMLM, MLM
from .low_pass_noise import LowPassNoise
from .mixture import Mixture
from .ncis import NCIS
from .patch_mix import PatchMix
from .patch_shuffle import PatchShuffle
from .phase_mix import PhaseMix
from .pixel_average import PixelAverage
from .rotation import Rotation
from .smooth_noise import SmoothNoise
from .strokes import Strokes

if TYPE_CHECKING:
    from guard.data import ImageData


def image_source(outliers: OutlierMix | None, count: int, num_classes: int) -> Synthesiser:
    """The synthesiser behind ``outliers=``: image sets and names of synthesisers with weights; `count` per step.

    Synthesisers that train something first draw from a store.
    """
    if not outliers:
        raise ConfigError("this method learns from outlier images; give some: outliers='folder/of/images'")

    def source(what: ImageData | str, n: int) -> Synthesiser:
        if not isinstance(what, str):
            return Given(what, n)
        synthesiser = create_synthesiser(what, n, num_classes)
        return Stored(synthesiser, n) if synthesiser.prepared else synthesiser

    if len(outliers) == 1:
        return source(next(iter(outliers)), count)
    return Mixture(outliers, count, source)


__all__ = [
    "BOOD",
    "DMR",
    "DMRMLM",
    "KIRBY",
    "MLM",
    "NCIS",
    "AdversarialNoise",
    "AuxiliaryLatents",
    "BlurredObject",
    "ClassMixed",
    "DreamID",
    "DreamOOD",
    "FodFoM",
    "Given",
    "JointGAN",
    "LabelMixup",
    "LowPassNoise",
    "Mixture",
    "PatchMix",
    "PatchShuffle",
    "PhaseMix",
    "PixelAverage",
    "PretrainedGAN",
    "Rotation",
    "SmoothNoise",
    "Strokes",
    "image_source",
]
