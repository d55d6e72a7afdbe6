"""Files and folders of models that `guard.fit` does not open: what each is, and what to give instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guard.errors import ModelError

_TO_ONNX = "write it as ONNX ({how}) and give the .onnx file"
_PICKLE = "hold pickled Python, which runs code when it is read"

KINDS: dict[tuple[str, ...], str] = {
    (".pt", ".pth", ".ckpt", ".bin", ".pt2", ".t7", ".torchscript", ".ptl", ".jit"): "is a file of torch, and such "
    "files may " + _PICKLE + "; load it where you trust it and give the module: guard.fit(torch.jit.load(...), data), "
    "or build the network and load_state_dict(...)",
    (".safetensors",): "holds weights without their network; give both: guard fit DATA --model NAME --checkpoint FILE, "
    "or guard.fit(my_model, data) after load_state_dict, or the Hugging Face folder it lies in",
    (".h5", ".hdf5", ".keras", ".pb", ".pbtxt"): "is a Keras or TensorFlow model; "
    + _TO_ONNX.format(how="keras: model.export(path, format='onnx'); or python -m tf2onnx.convert"),
    (".tflite", ".lite"): "is a TensorFlow Lite model; "
    + _TO_ONNX.format(how="python -m tf2onnx.convert --tflite FILE --output model.onnx"),
    (".mlmodel", ".mlpackage"): "is a Core ML model; give the model that it was converted from, or its ONNX file",
    (".caffemodel", ".prototxt"): "is a Caffe model; " + _TO_ONNX.format(how="with a converter such as caffe2onnx"),
    (".pdmodel", ".pdiparams", ".pdparams"): "is a Paddle model; " + _TO_ONNX.format(how="paddle2onnx"),
    (".params", ".json"): "cannot be opened as a model (MXNet, a configuration); "
    + _TO_ONNX.format(how="with its framework's exporter"),
    (".xml",): "is an OpenVINO model; give the ONNX file that it was converted from",
    (
        ".engine",
        ".plan",
        ".trt",
    ): "is a TensorRT engine, which is built for one machine; give the ONNX file that it was built from",
    (".ort",): "is an ONNX Runtime format model; give the .onnx file that it was made from",
    (".pkl", ".pickle", ".joblib", ".dill"): "may " + _PICKLE + "; load it where you trust it and give a torch module, "
    "or " + _TO_ONNX.format(how="skl2onnx, onnxmltools"),
    (".zip", ".tar", ".gz", ".mar", ".7z"): "is an archive; unpack it and give the model inside",
    (".py",): "is source code; give package.module:callable on the command line, or the module that it builds",
}
_OF_ENDING = {ending: sentence for endings, sentence in KINDS.items() for ending in endings}


def is_onnx(model: Any) -> bool:
    """Whether this names an ONNX file, in whatever case its ending is written."""
    return isinstance(model, (str, Path)) and Path(model).suffix.lower() == ".onnx" and not Path(model).is_dir()


def is_model_file(path: Path) -> bool:
    """Whether a name ends as files of models do, ONNX or not; there need be no such file."""
    return path.suffix.lower() == ".onnx" or path.suffix.lower() in _OF_ENDING


def check_file(path: Path) -> None:
    """Refuse a file, or the folder of a model, of a kind that is not opened; whether it is there or not.

    Raises:
        ModelError: with what it is, and what to give.
    """
    said = _OF_ENDING.get(path.suffix.lower())
    if path.is_dir():
        said = _in_folder(path) or (said if path.suffix.lower() == ".mlpackage" else None)
    elif said is None and path.is_file():
        said = (
            "is not a model of a known kind; give an .onnx file, a torch module, a timm name, a Hugging Face "
            "folder or a run folder"
        )
    if said:
        shown = str(path) if len(str(path)) <= 60 else f"...{str(path)[-57:]}"
        raise ModelError(f"{shown} {said}")


def _in_folder(folder: Path) -> str:
    names = [p.name for p in folder.iterdir()]
    if "saved_model.pb" in names or "keras_metadata.pb" in names:
        return "is a TensorFlow SavedModel; " + _TO_ONNX.format(how="python -m tf2onnx.convert --saved-model FOLDER")
    onnx = [name for name in names if name.lower().endswith(".onnx")]
    if onnx and not {"guard.json", "config.json"} & set(names):
        return f"is a folder; give the ONNX file in it, {onnx[0][:60]!r}"
    if "Manifest.json" in names and "Data" in names:
        return _OF_ENDING[".mlpackage"]
    return ""
