"""One file per method: its paper, its equations, its defaults, and a few lines of composition.

plain       cross-entropy, nothing else                                             -
recommended as phase_mix, with a score of three parts                               ours
phase_mix   tuning to be unsure of images with mixed phases                         ours
vos         low-density draws of class Gaussians in feature space                   Du et al., ICLR 2022
gcos        features off a class's manifold, within its distances; experimental         Karzanov & Detyniecki, ICML 2026
npos        noise around boundary features on a hypersphere                         Tao et al., ICLR 2023
oe          outlier exposure with images that the user gives                        Hendrycks et al., ICLR 2019
energy_ft   tuning that holds energies on their sides of two margins                Liu et al., NeurIPS 2020
ceda        low confidence on low-pass filtered noise                               Hein et al., CVPR 2019
acet        low confidence on the worst images around that noise                    Hein et al., CVPR 2019
ascood      uniform targets on images whose salient pixels are permuted or overdrawn    Regmi, CVPR 2026
mim         pixel averages of k images of different classes                         Choi & Na, AAAI 2024 workshop
gan         a GAN trained with the classifier                                       Lee et al., ICLR 2018
atol        a generator's crafted latents as auxiliary classes and outliers         Zheng et al., NeurIPS 2023
cmg         cmg_s, cmg_e: mixed class embeddings of a conditional VAE               Wang et al., ECML-PKDD 2022
dmr         mlm, dmr, dmr_mlm, dmr_kirby: decoded latents, mixed or class-free      Choi & Na, CVPR 2024 workshop
kirby       rejection network on images with inpainted key regions                  Kim et al., AAAI 2023
label_mixup uniform targets on images decoded from two classes at once              Wahd, preprint 2024
dream       dream_ood, dream_id: decoded from around features of each class         Du et al., NeurIPS 2023
bood        images decoded from features pushed over the boundary                   Liao et al., ICML 2025
fodfom      a class for decoded edges of classes and for blurred objects            Chen et al., ACM MM 2024
ncis        images decoded from low density among non-linear invariants             Doorenbos et al., preprint 2024
oal         features that tell little of a diffusion model's latents, and a teacher Gao et al., preprint 2024
rotpred     which way up an image is, beside its class                              Hendrycks et al., NeurIPS 2019
tgt         what a frozen general network knows beside the classes, kept in fine-tuning TGT, ECCV 2026
rejection   2-layer MLP on the frozen features of a plain classifier                DMR's head, for any outliers

base        what a method is: stages of a synthesiser and losses
from_store  outliers that are made once, before they are trained on
"""

from ..outliers import images  # registers what outliers= may name
from . import (
    acet,
    ascood,
    atol,
    bood,
    ceda,
    cmg,
    dmr,
    dream,
    energy_ft,
    fodfom,
    gan,
    gcos,
    kirby,
    label_mixup,
    mim,
    ncis,
    npos,
    oal,
    oe,
    phase_mix,
    plain,
    recommended,
    rejection,
    rotpred,
    tgt,
    vos,
)
from .base import get_method, list_methods

__all__ = [
    "get_method",
    "images",
    "list_methods",
    "acet",
    "ascood",
    "atol",
    "bood",
    "ceda",
    "cmg",
    "dmr",
    "dream",
    "energy_ft",
    "fodfom",
    "gan",
    "gcos",
    "kirby",
    "label_mixup",
    "mim",
    "ncis",
    "npos",
    "oal",
    "oe",
    "phase_mix",
    "plain",
    "recommended",
    "rejection",
    "rotpred",
    "tgt",
    "vos",
]
