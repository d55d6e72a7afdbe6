"""A guard's graph in another precision: the network's body in float16, bfloat16 or int8, the rest in float32.

body        which nodes may compute in less than float32
floats      float16 and bfloat16
integers    int8, by ONNX Runtime's static quantiser
calibrated  thresholds of its own, what it changes, and the layers that stay in float32 to keep within a budget
"""
