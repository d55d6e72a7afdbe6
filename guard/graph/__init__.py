"""The one torch module that training evaluates, export writes and the runtimes run.

outputs             features, logits and maps of a classifier
module           preprocessing constants + classifier + score + threshold
layer_maps       outputs of intermediate layers, summarised for scores that read them
onnx_classifier  a classifier that came as an ONNX file
onnx_nodes       reading and writing ONNX nodes
"""
