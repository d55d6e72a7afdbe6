"""`guard.train` and `fit`: make a guard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from .._siblings import needs
from ..detector import Guard
from ..errors import ConfigError
from ..geometry import Resize
from ..manifest import Interpolation
from ..requests import FitRequest, Outputs, Precision, TrainRequest
from .arguments import mapping_of, path_of, score_option_or_typo


def train(
    data: Any,
    *,
    method: str = "plain",
    backbone: str = "auto",
    head: str | None = None,
    head_options: Mapping[str, Any] | None = None,
    score: str | None = None,
    score_options: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    device: str = "auto",
    outliers: Any = None,
    ood_val: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    alpha: float = 0.05,
    class_conditional: bool = False,
    temperature_scaling: bool = False,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
    background: Any = None,
    fill: Any = None,
    in_chans: int = 3,
    pretrained: bool | str | Path = False,
    freeze: bool = False,
    backbone_lr: float | None = None,
    warmup_epochs: int | None = None,
    weight_decay: float | None = None,
    validation: int | float | None = None,
    init: str | Path | None = None,
    calibration: Any = None,
    test: Any = None,
    ema: float | None = None,
    augment: str = "auto",
    mixing_set: Any = None,
    precision: Precision = "auto",
    workers: int | None = None,
    threads: int | None = None,
    **options: Any,
) -> Guard:
    """Train a classifier with a guard: fit, choose the threshold on held-out images, measure on others.

    Args:
        data: labelled images in any form: a folder with one sub-folder per class; a CSV or TSV file of path,label; a
            pandas frame with a column of images or paths and one of labels; a Parquet file or folder in the
            Hugging Face image convention; a Hugging Face dataset id or `datasets.Dataset`; a map-style torch data set
            of (PIL image or uint8 array, int); a pair (uint8 NHWC array, labels); "digits".
        method: how outliers are made and used in training; see `list_methods`.
        backbone: a wide residual net "wrn16_2", "wrn28_10" (any depth 6 n + 4 and width), "resnet18_small",
            "resnet34_small", "resnet50_small", "densenet121_small" (small-image stems) or any timm name; "auto" is
            wrn16_2 up to 64 pixels and timm's resnet18 above.
        head: "linear", "cosine", "adacos", "arcface", "cosface", "sphereface", "c_plus_1" or "hypersphere"; default
            the method's own.
        head_options: the head's own options, e.g. ``{"margin": 0.3}``; see `guard heads NAME`.
        score: the ood_score the guard uses; default the method's own, or with `pretrained` and a method that only
            classifies, energy and Mahalanobis++; see `list_scores`. "energy+vim" combines several through their
            p-values.
        score_options: the score's own options, e.g. ``{"k": 10}``; see `guard scores NAME`.
        epochs: passes over the training split; default the method's own.
        batch_size: in-distribution images per step; default 128, or 32 below 5,000 training images.
        lr: peak learning rate of SGD with a cosine schedule; default the method's own.
        seed: of splits, initialisation, order and augmentation; two CPU runs of one seed and thread count are equal.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        outliers: images that are not in-distribution, for the methods that learn from given outliers; any form of
            `data`, labels ignored; the folder of a store (`synth`); or the name of a synthesiser. Several with
            weights, of which every step takes shares: ``{"stores/dmr": 2, "stores/kirby": 1, "strokes": 1}``.
        ood_val: out-of-distribution images to report AUROC on after training; never trained on.
        out: run folder: checkpoint, metrics.jsonl, guard.safetensors and guard.json. None keeps nothing on disk.
        resume: continue from the checkpoint in `out`, to the same end result as an uninterrupted run.
        alpha: target false-alarm rate on in-distribution images.
        class_conditional: a threshold for every predicted class with at least 50 calibration images, so that each class
            is flagged at most at `alpha`; default one threshold, which promises it for all images together.
        temperature_scaling: divide the logits by a number fitted on the calibration images, so that the probabilities
            are calibrated; labels and ood_scores stay as they are.
        image_size: the input's side in pixels, or (height, width); default the images' own size where all are alike and
            at most 64, else 224.
        resize: how images come to that size: "crop" scales them until they fill it and cuts the centre, "squash"
            stretches each side, "pad" scales them until they fit into it; default "crop".
        crop_pct: the share of the resized image that the input keeps, as in timm: 0.875 resizes to 256 and cuts 224;
            above 1 leaves a border; default 1.
        interpolation: Pillow's filter, "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming"; default
            "bilinear".
        background: what lies behind transparent pixels: a grey level 0 .. 255, a colour (R, G, B), "black", "white", or
            "drop", which ignores the transparency as Pillow's convert("RGB") does; default white.
        fill: what surrounds padded images, a grey level or a colour; default black.
        in_chans: 3 (grey images are repeated to RGB) or 1 (everything is converted to grey).
        pretrained: start a timm backbone from published weights: True takes timm's own from the hub or its cache; a
            ``.safetensors`` file under timm's names; a folder as timm.models.save_for_hf writes it, or the hub id of
            one, which also say what ``backbone="auto"`` is. The arguments below then have other defaults, as
            `lr` (0.01), `epochs` (10), `augment` and `score` (docs/fine_tuning.md).
        freeze: train the head alone, on the frozen backbone in eval mode (linear probing).
        backbone_lr: learning rate of the backbone as a share of `lr`, in (0, 1]; default 0.1 with `pretrained`, else 1.
        warmup_epochs: passes in which the head learns alone, before `epochs`, from images that are not augmented: they
            go through the backbone once. Default 30 with `pretrained`, else 0.
        weight_decay: of weights, not of biases and norms; default the method's, 5e-4.
        validation: how many training images (int), or which share of them (float), choose the epoch by accuracy where
            nothing but the labels is learned; never images that calibrate, and never OOD ones. Default a tenth
            with `pretrained`, else 0: the last epoch is kept.
        init: a run folder to start the network from. Backbone, head and the size of images are those of the run, where
            nothing else is asked for.
        calibration: how many images (int) or which share (float) of `data` to hold out for the threshold, or a data
            set of its own (its labels are not needed); default min(2000, max(10 %, min(400, 25 %))).
        test: the same for the test split, on which accuracy and false-alarm rate are measured; a data set of its own
            is labelled, and its classes are matched by name.
        ema: decay of an exponential moving average of the weights, e.g. 0.999; None for none.
        augment: the steps that images go through in training, in order, joined by "+": "crop" (padded random crops),
            "flip" (mirrored), "resized_crop" (a random part, enlarged, and mirrored: for large images), "cutout",
            "cutmix", "pixmix", "resample", and torchvision's "randaugment", "autoaugment", "augmix"; each of the last
            seven alone stands for "crop+flip" and it. "none"; "auto": "crop+flip", or "crop" for digits, which have
            a handedness.
        mixing_set: pictures that the step "pixmix" mixes in, best without anything that looks like a class; any form of
            `data`, labels ignored. Default fractals, waves and noise that the program draws.
        precision: "auto" (mixed bf16 where the device computes in it, else fp32), "bf16" or "fp32".
        workers: processes that decode large images; default the number of cores, or of a container's CPU quota.
        threads: of the CPU, for the network. Default all, or one where its steps are clearly faster, as on a busy
            machine: the first steps are timed with both. A resumed run keeps its count, for sums depend on it.
        **options: the method's own options; see `guard methods NAME` or its docstring.

    Returns:
        A calibrated `Guard`, also written to `out`.

    Raises:
        guard.errors.GuardError: for whatever was asked that cannot be done; the message names the fix.

    Example:
        >>> g = guard.train("digits", method="vos", epochs=10, out="runs/a")  # doctest: +SKIP
    """
    with TrainRequest.checked():
        request = TrainRequest(
            data=data,
            method=method,
            backbone=backbone,
            head=head,
            head_options=mapping_of(head_options),
            score=score,
            score_options=mapping_of(score_options),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
            outliers=outliers,
            ood_val=ood_val,
            out=path_of(out),
            resume=resume,
            alpha=alpha,
            class_conditional=class_conditional,
            temperature_scaling=temperature_scaling,
            image_size=image_size,
            resize=resize,
            crop_pct=crop_pct,
            interpolation=interpolation,
            background=background,
            fill=fill,
            in_chans=in_chans,
            pretrained=pretrained,
            freeze=freeze,
            backbone_lr=backbone_lr,
            warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
            validation=validation,
            init=path_of(init),
            calibration=calibration,
            test=test,
            ema=ema,
            augment=augment,
            mixing_set=mixing_set,
            precision=precision,
            workers=workers,
            threads=threads,
            options=options,
        )
    return cast("Guard", needs("train", "train.runs.train").train(request))


def fit(
    model: Any,
    data: Any,
    *,
    score: str | None = None,
    score_options: Mapping[str, Any] | None = None,
    outliers: Any = None,
    training: Mapping[str, Any] | None = None,
    features: str | None = None,
    outputs: Outputs = "auto",
    class_names: Any = None,
    processor: Any = None,
    image_size: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
    crop_pct: float | None = None,
    interpolation: Interpolation | None = None,
    background: Any = None,
    fill: Any = None,
    in_chans: int | None = None,
    mean: Any = None,
    std: Any = None,
    channel_order: Literal["rgb", "bgr"] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "auto",
    alpha: float = 0.05,
    class_conditional: bool = False,
    temperature_scaling: bool = False,
    calibration: Any = None,
    test: Any = None,
    out: str | Path | None = None,
    name: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    **options: Any,  # only to say where the score's options went
) -> Guard:
    """Guard a classifier that you already have; its weights and its answers stay as they are.

    Args:
        model: a torch classifier, normalised images (N, channels, H, W) -> logits (N, C); a timm model name; a Hugging
            Face image-classification model, its folder (safetensors) or hub id; an ``.onnx`` file; two callables,
            (features, logits): images -> (N, D), and those -> (N, C); or a guard or run folder to give another score.
        data: labelled in-distribution images, as in `train`; best ones the model was not trained on.
        score: "msp", "max_logit", "energy", "mahalanobis", "knn", "vim", ...; ``list_scores(model=model)`` says which
            the model can have. Default "energy"; for timm's and Hugging Face models, which are pretrained as a rule,
            energy and Mahalanobis++ combined (docs/fine_tuning.md).
        score_options: the score's own options, e.g. ``{"k": 10}`` for knn; see ``guard scores NAME``.
        outliers: for the score "rejection" (also as a part, "rejection+energy"), which learns from them on the frozen
            model: images that are none of your classes, the folder of a store (`synth`), or a synthesiser's name;
            several with weights, as in `train`.
        training: how it learns: ``tune_epochs``, ``tune_lr``, ``tune_momentum``, ``tune_weight_decay``, ``ratio``,
            ``match``, ``treat_id``, ``augment_outliers``, ``head_kind`` as of the method "rejection", and
            ``batch_size``; its form, ``hidden`` and ``tap``, is in `score_options`.
        features: name of the module, or of the tensor of an ONNX file, that is the feature vector; default the input
            of the last linear layer.
        outputs: what the model's numbers are. "auto" takes logits, and refuses by their values what is none.
            "softmax" and "log_softmax" take log p, for scores that read p alone ("msp", "entropy", "gen"); "sigmoid"
            takes log p / (1 - p), of classes judged each by itself, or of one column, the probability of the second
            of two classes; "binary" takes one column of its logit z as (-z / 2, z / 2); "logits" takes logits that
            happen to lie in [0, 1].
        class_names: the model's classes in the order of its logits: a list, NumPy or pandas, ``{"cat": 0}``,
            ``{0: "cat"}`` (from 0 or 1), or a text or JSON file; default its own (Hugging Face's ``id2label``, a
            guard's), else those of `data`. The classes of `data` are matched to them by name (without case, spaces,
            ``_`` and ``-`` where that leaves no choice), or by index where they are called "0", "1", ...; they may lack
            some then. Else they are taken in their own order, or in that of text or numbers, where it fits the labels
            clearly better; this is logged.
        processor: a Hugging Face model's image processor, or the folder of one; default the one beside the model. It
            becomes the guard's preprocessing, or is refused with the difference named.
        image_size, in_chans, mean, std: the input the model was trained for; default the model's own
            ``pretrained_cfg`` (timm), else the images' size, 3 and ImageNet's normalisation, which is logged.
        resize, crop_pct, interpolation, background, fill: as in `train`, and as the model was trained; default the
            model's own, and for timm's models the pixels of timm's ``create_transform``. Another `resize` than the
            model's own takes the whole image, unless `crop_pct` is given too. Where other settings are clearly more
            often right on the data, a warning names them.
        channel_order: "bgr" for a network that takes blue first (Caffe, OpenCV, Custom Vision); `mean` and `std` are in
            its order. The guard is given RGB all the same.
        name: what the guard is called in answers; default the folder's or the model's and the score's.
        calibration, test, alpha, class_conditional, temperature_scaling, seed, device, out, workers, threads: as in
            `train`.

    Returns:
        A calibrated `Guard`, also written to `out`.
    """
    if options:
        raise ConfigError(score_option_or_typo(options, score, FitRequest))
    with FitRequest.checked():
        request = FitRequest(
            model=model,
            data=data,
            score=score,
            score_options=mapping_of(score_options),
            outliers=outliers,
            training=mapping_of(training),
            features=features,
            outputs=outputs,
            class_names=class_names,
            processor=processor,
            image_size=image_size,
            resize=resize,
            crop_pct=crop_pct,
            interpolation=interpolation,
            background=background,
            fill=fill,
            in_chans=in_chans,
            mean=mean,
            std=std,
            channel_order=channel_order,
            batch_size=batch_size,
            seed=seed,
            device=device,
            alpha=alpha,
            class_conditional=class_conditional,
            temperature_scaling=temperature_scaling,
            calibration=calibration,
            test=test,
            out=path_of(out),
            name=name,
            workers=workers,
            threads=threads,
        )
    return cast("Guard", needs("train", "train.runs.fit").fit(request))
