"""What a GPU is asked in one go: ``benchmarks/gpu.sh``, one part after the other, the most valuable first.

guard_cost   guard / bare on torch CUDA by batch and precision, and whether it flags as the CPU does
engines      TensorRT engines and ONNX Runtime's providers: built, run, compared with the CPU
training     steps of plain, vos and phase_mix; nothing in them waits for the device; a resumed run ends alike
bank         exact kNN in a bank of a million features, against faiss
diffusion    Stable Diffusion v1.4's architecture with random weights: sampling, memory, NCIS's embedding calls

part         what they share: arguments, results that are written as they come, and the common page

Each is ``python -m benchmarks.gpu.NAME --out FOLDER`` and writes NAME.json and, with those of the others, gpu.md. With
``--toy`` it runs on the CPU, in seconds, at a size that measures nothing: so that the script works when a GPU is there.
"""
