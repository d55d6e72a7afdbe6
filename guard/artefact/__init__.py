"""What is written to disk, and how it is read back.

files          writing whole files, reading them, digests: a file that was changed or cut short is refused
load_save      a guard from a path, and to a folder or file
onnx_defaults  the defaults inside an ONNX graph (threshold, temperature), read and replaced
"""
