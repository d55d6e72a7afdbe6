"""What the public functions were asked for, as frozen records: one place for name, type, default and help.

`guard.api` builds them, everything behind takes them, and the command line generates its flags from them.
No torch, so that ``guard train --help`` answers at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, ValidationError, ValidationInfo, field_validator

from .errors import ConfigError
from .geometry import Geometry
from .paths import expanded, unusable
from .record import Record, one_sentence, option

Precision = Literal["auto", "fp32", "bf16"]
Outputs = Literal["auto", "logits", "softmax", "log_softmax", "sigmoid", "binary"]
_NUMBER = re.compile(r"\s*\d{1,12}\s*|\s*0?\.\d+\s*", re.ASCII)
SEED: dict[str, Any] = {"rule": "must be an integer from 0 to 2^31 - 1", "ge": 0, "lt": 2**31}

ALPHA: dict[str, Any] = {  # its range is checked where the calibration images are counted
    "rule": "must be between 0 and 1 (the share of in-distribution images that may be flagged; 5 % is 0.05)"
}


def check_seed(seed: Any) -> int:
    """The same seed, where it did not come through a request.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not SEED["ge"] <= seed < SEED["lt"]:
        raise ConfigError(f"seed {SEED['rule']}, got {seed!r}")
    return seed


class Request(Record):
    """The arguments of a public function, named by `function` in messages."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    function: ClassVar[str] = "guard"

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers of numpy and torch are numbers, a torch device is its name; True is not a number; ~ is a folder."""
        accepted = str(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and ("int" in accepted or "float" in accepted):
            raise ValueError("a number is needed")
        if type(value).__name__ == "device" and hasattr(value, "type"):
            return str(value)
        if isinstance(value, (str, os.PathLike)) and (why := unusable(value)):
            raise ValueError(why)
        if isinstance(value, (str, os.PathLike)) and "Path" in accepted:
            return expanded(value)
        alone = isinstance(value, np.generic) or (getattr(value, "ndim", None) == 0 and hasattr(value, "item"))
        return value.item() if alone else value

    @field_validator("calibration", "test", mode="before", check_fields=False)
    @classmethod
    def _amount(cls, value: Any) -> Any:
        """The text of a number is that number, unless something in the working folder is called so."""
        if not isinstance(value, str) or not _NUMBER.fullmatch(value) or Path(value).exists():
            return value
        return int(value) if value.strip().isdigit() else float(value)

    @classmethod
    @contextmanager
    def checked(cls) -> Iterator[None]:
        """Around the constructor: what is wrong becomes one sentence.

        Raises:
            ConfigError: a wrong type, or a value out of range.
        """
        try:
            yield
        except ValidationError as error:
            raise ConfigError(one_sentence(error, cls, cls.function)) from None


class HeldOut(Request):
    """How held-out images are drawn, and what is chosen on them."""

    calibration: Any = option(
        None, "Images held out for the threshold: a count, a share or a data set of its own (labels not needed)."
    )
    test: Any = option(None, "Images held out to measure on: a count, a share or a labelled data set of its own.")
    seed: int = option(0, "Of splits, initialisation, order and augmentation.", **SEED)
    alpha: float = option(0.05, "Target false-alarm rate on in-distribution images, between 0 and 1.", **ALPHA)
    class_conditional: bool = option(False, "A threshold per predicted class, each holding the target.")
    temperature_scaling: bool = option(False, "Calibrate the probabilities on the calibration images.")


class TrainRequest(Geometry, HeldOut):
    """The arguments of `guard.train`."""

    function: ClassVar[str] = "guard.train"
    data: Any = option(..., "Labelled images in any form: a folder per class, Parquet, a hub id, arrays, 'digits'.")
    method: str = option("plain", "How outliers are made and used; see: guard methods.")
    backbone: str = option(
        "auto",
        "wrn16_2, wrn28_10 (any wrnD_W), resnet18_small, resnet34_small, resnet50_small, densenet121_small, any timm "
        "name, or auto.",
    )
    head: str | None = option(None, "See: guard heads; default the method's.")
    head_options: Mapping[str, Any] = option(
        {}, "Options of the head; see: guard heads NAME.", rule="takes a mapping such as {'margin': 0.3}"
    )
    score: str | None = option(None, "See: guard scores; default the method's. A+B combines several.")
    score_options: Mapping[str, Any] = option(
        {}, "Options of the score; see: guard scores NAME.", rule="takes a mapping such as {'k': 10}"
    )
    options: Mapping[str, Any] = option({}, "Options of the method; see: guard methods NAME.")
    epochs: int | None = option(None, "Passes over the training split; default the method's.", ge=1)
    batch_size: int | None = option(None, "In-distribution images per step; default 128, or 32 for small data.", ge=2)
    lr: float | None = option(None, "Peak learning rate; default the method's.", gt=0)
    device: str = option("auto", "auto, cpu or cuda.")
    outliers: Any = option(None, "Images that are not in-distribution, a store, or a synthesiser's name; with weights.")
    ood_val: Any = option(None, "OOD images to report AUROC on after training; never trained on.")
    out: Path | None = option(None, "Run folder.")
    resume: bool = option(False, "Continue from the checkpoint in the run folder.")
    in_chans: int = option(3, "3 (grey images are repeated to RGB) or 1 (everything becomes grey).")
    pretrained: bool | str | Path = option(
        False, "Start from published weights: timm's own, a safetensors file, a timm checkpoint folder or a hub id."
    )
    freeze: bool = option(False, "Train the head alone, on the frozen backbone (linear probing).")
    backbone_lr: float | None = option(
        None,
        "Learning rate of the backbone, as a share of the head's; default 0.1 with pretrained, else 1.",
        gt=0,
        le=1,
    )
    warmup_epochs: int | None = option(
        None, "Passes in which the head learns alone, before the others; default 30 with pretrained, else 0.", ge=0
    )
    weight_decay: float | None = option(None, "Of weights, not of biases and norms; default the method's.", ge=0)
    validation: int | float | None = option(
        None,
        "Training images that choose the best epoch by accuracy, a count or a share; default a tenth with pretrained, "
        "else 0, which keeps the last epoch.",
        ge=0,
    )
    init: Path | None = option(None, "Run folder to start the network from, with its backbone, head and image size.")
    ema: float | None = option(None, "Decay of averaged weights, e.g. 0.999.", gt=0, lt=1)
    augment: str = option(
        "auto",
        "Steps in order, joined by +: crop, flip, resized_crop, randaugment, autoaugment, augmix, cutout, cutmix, "
        "pixmix, resample (one after resized_crop, alone, comes after crop+flip); or none, or auto.",
    )
    mixing_set: Any = option(
        None, "Pictures that the augmentation pixmix mixes in; default fractals and patterns, drawn."
    )
    precision: Precision = option(
        "auto", "Of training: bf16 (mixed), fp32, or auto: bf16 where the device computes in it, else fp32."
    )
    workers: int | None = option(None, "Processes that decode large images; default the number of cores.")
    threads: int | None = option(
        None, "Of the CPU; default all, or one where its steps are clearly faster (on a busy machine).", ge=1
    )


class FitRequest(Geometry, HeldOut):
    """The arguments of `guard.fit`."""

    function: ClassVar[str] = "guard.fit"
    model: Any = option(
        ..., "The classifier: a torch module, timm name, Hugging Face folder or hub id, .onnx, a guard."
    )
    data: Any = option(..., "Labelled in-distribution images, best ones that the model was not trained on.")
    score: str | None = option(
        None, "See: guard scores; default energy, or energy and Mahalanobis++ for timm and Hugging Face models."
    )
    score_options: Mapping[str, Any] = option(
        {}, "Options of the score; see: guard scores NAME.", rule="takes a mapping such as {'k': 10}"
    )
    outliers: Any = option(
        None, "For the score rejection: images that are not in-distribution, a store, or a synthesiser's name."
    )
    training: Mapping[str, Any] = option(
        {},
        "How the score rejection learns from the outliers: tune_epochs, tune_lr, match ...",
        rule="takes a mapping such as {'tune_epochs': 5}",
    )
    features: str | None = option(None, "Module, or tensor of an ONNX file, that is the feature vector; default found.")
    outputs: Outputs = option(
        "auto", "What the model's numbers are; auto takes logits, sigmoid and binary also one column for two classes."
    )
    class_names: Any = option(None, "The model's classes in the order of its logits; default its own, else the data's.")
    processor: Any = option(None, "A Hugging Face model's image processor, or its folder; default the model's.")
    in_chans: int | None = option(None, "3, or 1 for grey; default the model's.")
    mean: Any = option(None, "Normalisation, e.g. 0.5,0.5,0.5; default the model's.")
    std: Any = option(None, "Normalisation; default the model's.")
    channel_order: Literal["rgb", "bgr"] | None = option(
        None, "In which the network takes colours: rgb, or bgr (Caffe, OpenCV, Custom Vision); default rgb."
    )
    batch_size: int = option(64, "Images per step.", ge=1, rule="must be at least 1")
    device: str = option("auto", "auto, cpu or cuda.")
    out: Path | None = option(None, "Run folder.")
    name: str | None = option(None, "What the guard is called in answers.")
    workers: int | None = option(None, "Processes that decode large images; default the number of cores.")
    threads: int | None = option(
        None, "Of the CPU; default all, or one where its steps are clearly faster (on a busy machine).", ge=1
    )


class SynthRequest(Geometry, Request):
    """The arguments of `guard.synth`."""

    function: ClassVar[str] = "guard.synth"
    data: Any = option(..., "Labelled images in any form that guard train takes.")
    method: str = option(..., "The synthesiser; see: guard synthesisers.")
    out: Path = option(..., "The store's folder. One that was begun is continued.")
    options: Mapping[str, Any] = option({}, "Options of the synthesiser; see: guard synthesisers NAME.")
    count: int | None = option(
        None,
        "Outliers in all; default one per training image, at most 50,000.",
        ge=1,
        rule="must be a number of images, at least 1",
    )
    classifier: Any = option(None, "A guard to score the outliers with: a run folder or an exported file.")
    match: Sequence[str] = option(
        (),
        "What each outlier takes over from an in-distribution image: spectrum, detail, colour, saturation, contrast, "
        "brightness, histogram, coding.",
    )
    seed: int = option(0, "Of splits and outliers.", **SEED)
    device: str = option("auto", "auto, cpu or cuda.")
    batch_size: int = option(128, "In-distribution images per draw.", ge=1, rule="must be at least 1")
    in_chans: int = option(3, "3, or 1 for grey.")
    calibration: Any = option(None, "What guard train will hold out for the threshold.")
    test: Any = option(None, "What guard train will hold out to measure on.")
    gallery: bool = option(True, "Write gallery.html into the folder.")
    workers: int | None = option(None, "Processes that decode large images; default the number of cores.")
    threads: int | None = option(
        None, "Of the CPU; default all, or one where its steps are clearly faster (on a busy machine).", ge=1
    )


class EvaluateRequest(Request):
    """The arguments of `guard.evaluate`."""

    function: ClassVar[str] = "guard.evaluate"
    g: Any = option(..., "A guard, or the path of one.")
    id: Any = option(..., "Labelled in-distribution test images.")
    ood: Mapping[str, Any] = option(
        {},
        "OOD images by name; labels are ignored. 'gaussian_noise' and 'uniform_noise' are sets that are there.",
        rule="must map names to images, like ood={'textures': 'path/to/textures'}",
    )
    near: Sequence[str] = option(
        (),
        "Which of the OOD sets are near-OOD; the others are far-OOD.",
        rule="must be a list of names, like near=['a']",
    )
    out: Path | None = option(None, "report.html to write, with report.json beside it.")
    bootstrap: int = option(
        1000, "Resamples for the 95 % intervals; 0 for none.", ge=0, rule="must be at least 0 (0 for no intervals)"
    )
    seed: int = option(0, "Of the resamples, of the draw of max_images and of noise.", **SEED)
    batch_size: int = option(64, "Images per run.", ge=1, rule="must be at least 1")
    max_images: int | None = option(None, "At most this many images of each set, drawn at random by the seed.", ge=1)


class CalibrateRequest(Request):
    """The arguments of `guard.calibrate`."""

    function: ClassVar[str] = "guard.calibrate"
    g: Any = option(..., "A guard, or the path of one.")
    data: Any = option(..., "In-distribution images in any form that guard train takes.")
    out: Path | None = option(None, "Where to write the guard; its own path replaces it.")
    alpha: float | None = option(
        None, "Target false-alarm rate on in-distribution images, between 0 and 1; default the guard's own.", **ALPHA
    )
    class_conditional: bool | None = option(
        None, "A threshold per predicted class, each holding the target, or one for all; default as the guard has it."
    )
    min_class_images: int | None = option(None, "A class with fewer images keeps the pooled threshold; default 50.")
    temperature_scaling: bool = option(False, "Fit the temperature of the probabilities anew; needs labels.")
    batch_size: int = option(64, "Images per run.", ge=1, rule="must be at least 1")


class ScanRequest(Request):
    """The arguments of `guard.scan`."""

    function: ClassVar[str] = "guard.scan"
    g: Any = option(..., "A guard, or the path of one.")
    data: Any = option(..., "Images in any form that guard train takes; labels are not needed.")
    out: Path = option(..., "Folder of the Parquet files and the report. A scan that was begun there goes on.")
    labelled: bool = option(False, "Read the labels too, and report likely mislabelled and off-class images.")
    cross_fit: int | None = option(
        None,
        "Judge the labels in this many folds, each by the others; of a run folder, for its own training images.",
        ge=2,
        rule="must be at least 2 (folds; 5 is usual)",
    )
    workers: int | None = option(
        None, "Processes that decode and score; default the number of cores, none for few images.", ge=0
    )
    ray: str | None = option(None, "Score on the Ray cluster at this address (host:6379, auto; local starts one here).")
    batch_size: int = option(64, "Images per run.", ge=1, rule="must be at least 1")
    shard_size: int = option(4096, "Images per Parquet file.", ge=1, rule="must be at least 1")
    device: str = option("auto", "auto, cpu or cuda.")
    runtime: Literal["auto", "onnxruntime", "openvino"] = option(
        "auto",
        "What runs an .onnx file: onnxruntime (which auto is) or openvino.",
        rule="must be one of auto, onnxruntime, openvino",
    )
    seed: int = option(0, "Of the order in which the drift test takes the images.", **SEED)


class BenchmarkRequest(Request):
    """The arguments of `guard.benchmark`."""

    function: ClassVar[str] = "guard.benchmark"
    file: Any = option(..., "The YAML file; its keys are below.")
    out: Path | None = option(None, "Folder of runs and report, in place of the file's.")
    settings: Mapping[str, Any] = option(
        {}, "Keys that replace those of the file.", rule="takes a mapping such as {'epochs': 1}"
    )
