"""What is written to disk, and how it is read back.

files          writing whole files, reading them, digests: a file that was changed or cut short is refused
load           a guard from a path
save           a guard in its own format again
engines        a TensorRT engine, built again for another machine
run_folder     guard.safetensors and guard.json, on disk or on the hub
onnx_defaults  the defaults inside an ONNX graph (threshold, temperature), read and replaced
"""
