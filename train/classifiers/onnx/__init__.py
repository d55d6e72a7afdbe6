"""Classifiers that come as ONNX files.

file      the classifier behind `guard.fit`
read      the graph as it is
zipmap    answers that are a mapping per image
input     what input it expects
answer    which output is the logits, also where a softmax follows them
head      its last layer
suspects  nodes that are random, or compute over the whole batch
adapt     what must change before it can be a guard
"""
