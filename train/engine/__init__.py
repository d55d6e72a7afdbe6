"""The one resumable training engine.

stages            the stages of a method, one after the other
loader            images to the device, in the order asked for
augment           random crops and mirroring, batched
checkpoint        what a run needs to resume, in one file
distributed       work that several processes share
adaptive_batches  as many rows at once as memory takes
"""
