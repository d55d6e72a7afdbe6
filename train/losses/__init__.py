"""Losses that teach the difference between in-distribution images and outliers. One per file.

energy_logistic   R-ELR      binary cross-entropy of a learned logistic link of the energy
energy_hinge      R-EH       energies held on their sides of two margins
max_confidence    R-MAXCONF  log of the largest probability of outliers
uniform_target    R-OE       cross-entropy of outliers to the uniform distribution
rejection_bce     R-BCE      binary cross-entropy of a rejection network
k_plus_1          R-K+1      outliers as the extra class of head c_plus_1
supcon            SupCon     items of a class together, others apart
smoothed_cross_entropy       smoothed labels, of real and auxiliary images
residual_distillation        what a frozen teacher knows beside the classes, of `class_residual`
"""
