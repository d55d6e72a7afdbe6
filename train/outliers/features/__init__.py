"""Outliers in feature space.

class_gaussian    the least likely draws of class Gaussians (VOS), by their exact law
knn_boundary      noise around the boundary points of a class, by k-th neighbours (NPOS)
boundary_search   which points these are in a large bank, exactly
"""
