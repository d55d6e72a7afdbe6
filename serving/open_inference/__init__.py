"""The Open Inference Protocol v2 (KServe, Triton), so that their clients can ask a guard.

routes     which path answers what
metadata   what the service and its models say about themselves
tensors    datatypes; JSON lists and binary data <-> numpy
request    the body of POST .../infer -> images, encoded or as pixels
response   verdicts -> output tensors, as JSON or binary

Source: kserve/open-inference-protocol, inference_rest.md; Triton's binary tensor data extension.
"""
