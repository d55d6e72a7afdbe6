"""Embeddings that a diffusion model decodes to outliers: points of its conditioning space, and how they are found.

encoder         an image encoder whose features point to their class's anchor T(y); features of the training images
"""

from .encoder import AnchoredEncoder, EncoderOptions, Features, trained_encoder, training_features

__all__ = ["AnchoredEncoder", "EncoderOptions", "Features", "trained_encoder", "training_features"]
