"""A guard as one graph: ONNX and TensorRT, verified where it is written. Reached by `guard.export`, `guard.verify`."""
