"""Outliers: features/ draws them in feature space, images/ in pixel space."""
