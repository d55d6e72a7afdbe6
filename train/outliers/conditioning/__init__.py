"""Embeddings that a diffusion model decodes to outliers: points of its conditioning space, and how they are found.

encoder         an image encoder whose features point to their class's anchor T(y); features of the training images
boundary        noise around the sparsest (or densest) features of a class
crossing        features pushed over the boundary to another class
anchors         between two anchors, an anchor with noise, an anchor with a learned offset
table           embeddings kept in a file, and drawn from
"""

from .encoder import AnchoredEncoder, EncoderOptions, Features, trained_encoder, training_features

__all__ = ["AnchoredEncoder", "EncoderOptions", "Features", "trained_encoder", "training_features"]
