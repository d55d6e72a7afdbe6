"""The one resumable training engine.

stages            the stages of a method, one after the other
stage_run         one of them: draw, forward, losses, update
epochs            the seeded, resumable, logged epoch of every training
forward           passes through the classifier; frozen_features: those that need not be made twice
optimizer, schedule, precision, averaging, seeds, modes
loader            images to the device, in the order asked for
augment           random crops and mirroring, batched; resized_crop: random parts
mixed_labels      what cannot go with labels that are mixed
checkpoint        what a run needs to resume, in one file
journal, progress what is said of an epoch, to files and to people
distributed       work that several processes share
divided           a step that they share: rows, gradients; synced_norm: batch norm over all rows
adaptive_batches  as many rows at once as memory takes
"""
