"""One file per method: its paper, its equations, its defaults, and a few lines of composition.

plain       cross-entropy                                                     no outliers
phase_mix   tuning to be unsure of images with mixed phases                   ours; no outliers needed
vos         low-density draws of class Gaussians in feature space             methods.md B1
npos        noise around boundary features on a hypersphere                   methods.md B2
oe          outlier exposure with images that the user gives                  methods.md B4
energy_ft   fine-tuning that holds energies on their sides of two margins     methods.md B5
ceda        low confidence on low-pass filtered noise                         methods.md B6
acet        low confidence on the worst images around that noise              methods.md B6
mim         pixel averages of k images of different classes                   methods.md B7
gan         a GAN trained with the classifier                                 methods.md B3
atol        a generator's crafted latents as auxiliary classes and outliers   methods.md B11
cmg_s       mixed class embeddings of a conditional VAE, one more class       methods.md B12
cmg_e       the same images, held at high energy                              methods.md B12
mlm         rejection network on decoded means of latents                     methods.md A4
dmr         rejection network on latents without their class's mean, decoded  methods.md A4
dmr_mlm     both of these                                                     methods.md A4
dmr_kirby   dmr_mlm's and kirby's outliers together                           methods.md A4
label_mixup uniform targets on images decoded from two classes at once       methods.md A2
kirby       rejection network on images with inpainted key regions            methods.md B8
fodfom      a class for decoded edges of classes and for blurred objects      methods.md B9
ncis        images decoded from low density among non-linear invariants       methods.md A5
oal         features that tell little of a diffusion model's latents, teacher methods.md A1
dream_ood   images decoded from around the sparsest features of each class    methods.md A3
dream_id    more of each class, decoded from around its densest features      methods.md A3
bood        images decoded from features pushed over the boundary             methods.md B10
rejection   2-layer MLP on the frozen features of a plain classifier          methods.md A4 (DMR's head)
"""

from ..outliers import images  # registers what outliers= may name
from . import (
    acet,
    atol,
    bood,
    ceda,
    cmg,
    dmr,
    dream,
    energy_ft,
    fodfom,
    gan,
    kirby,
    label_mixup,
    mim,
    ncis,
    npos,
    oal,
    oe,
    phase_mix,
    plain,
    rejection,
    vos,
)
from .base import get_method, list_methods

__all__ = [
    "get_method",
    "images",
    "list_methods",
    "acet",
    "atol",
    "bood",
    "ceda",
    "cmg",
    "dmr",
    "dream",
    "energy_ft",
    "fodfom",
    "gan",
    "kirby",
    "label_mixup",
    "mim",
    "ncis",
    "npos",
    "oal",
    "oe",
    "phase_mix",
    "plain",
    "rejection",
    "vos",
]
