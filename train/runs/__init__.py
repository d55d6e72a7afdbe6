"""What `guard.train`, `guard.fit` and `guard.synth` call, top to bottom.

train     a classifier with its guard, from images
fit       a guard for a classifier that the user has
synth     a store of outliers
resolve   what a training was asked for, with every default found: method, score, head, backbone ...
request   the record of that, which checkpoints hold
assemble  what train and fit end in: score, manifest, threshold, numbers on held-out images, run folder
"""
