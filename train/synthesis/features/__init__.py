"""Outliers in feature space.

class_gaussian   the least likely draws of class Gaussians (VOS), by their exact law
"""
