"""The one torch module that training evaluates, export writes and the runtimes run.

outputs          what a classifier shows (features, logits, feature map), and the kinds of classifier that show it
module           normalisation + classifier + score + threshold
layer_maps       outputs of intermediate layers, summarised for the scores that read them
onnx_classifier  a classifier that came as an ONNX file
onnx_nodes       reading and writing ONNX nodes
"""
