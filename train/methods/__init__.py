"""One file per method: its paper, its equations, its defaults, and a few lines of composition.

plain       cross-entropy                                                     no outliers
vos         low-density draws of class Gaussians in feature space             methods.md B1
oe          outlier exposure with images that the user gives                  methods.md B4
mim         pixel averages of k images of different classes                   methods.md B7
rejection   2-layer MLP on the frozen features of a plain classifier          methods.md A4 (DMR's head)
"""

from . import mim, oe, plain, rejection, vos

__all__ = ["mim", "oe", "plain", "rejection", "vos"]
