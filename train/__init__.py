"""How a guard is made; needs torch, and is reached by `guard.train`, `guard.fit` and `guard.synth`.

runs         what these three call, top to bottom
methods      one file per paper: options, equations, composition
losses       what the loss does with outliers
outliers     what makes outliers: sources, images, features, conditioning, stores, audits
generators   diffusion models, latent pairs, GANs
classifiers  the classifiers that `guard.fit` takes
features     features of any torch model
engine       the one resumable training engine
cache        what takes long is kept
backbones    networks by name
teacher      a network that teaches the one being trained, and frozen_teacher, one that is not trained itself
"""

from . import methods  # registers every method and synthesiser

__all__ = ["methods"]
