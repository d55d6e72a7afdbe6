"""Encoder/generator pairs: images <-> latents w (N, L, d), for latent arithmetic (DMR).

base          the protocol, the options, and the registry of pairs
make          the pair that the options name
style         mapping and style-based generator (StyleGAN2's modulated convolutions), small
trunk         encoder to W+ and discriminator
style_pair    the three in one module: the default pair
training      its training on the user's images, resumable
arithmetic    means, marginals and mixtures of latents, and where their 0 is
reconstructions  in-distribution images as the pair reconstructs them
stylegan      any StyleGAN-style mapping, synthesis and encoder, given as torch modules
"""

from .base import Pair, PairOptions, SamplingPair, register_pair
from .make import make_pair
from .style_pair import StylePair
from .stylegan import StyleGANPair

__all__ = ["Pair", "PairOptions", "SamplingPair", "StyleGANPair", "StylePair", "make_pair", "register_pair"]
