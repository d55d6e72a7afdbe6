"""What `guard.train`, `guard.fit` and `guard.synth` call, top to bottom.

request   what was asked for, as frozen records
train     a classifier with its guard, from images
fit       a guard for a classifier that the user has
synth     a store of outliers
assemble  what all of them end in: score, threshold, numbers on held-out images, run folder
"""
