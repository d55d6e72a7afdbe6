"""Classifiers that come as ONNX files.

file   the classifier behind `guard.fit`
read   the graph as it is
input  what input it expects
head   its last layer
adapt  what must change before it can be a guard
"""
