"""``guard train``, ``fit``, ``export``, ``verify``: make a guard, write it as one graph, prove the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import api
from ..errors import ConfigError
from . import output, runs
from .arguments import Data, Debug, Json, defaults, named_sets, numbers, settings, value, weighted
from .classifiers import classifier

_TRAIN, _FIT, _EXPORT, _VERIFY = (defaults(f) for f in (api.train, api.fit, api.export, api.verify))

Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/<time>-<what>.", show_default=False)]
NoExport = Annotated[bool, typer.Option("--no-export", help="Do not write guard.onnx into the run folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Alpha = Annotated[float, typer.Option(help="Target false-alarm rate on in-distribution images.")]
ClassConditional = Annotated[
    bool, typer.Option("--class-conditional", help="A threshold per predicted class, each holding the target.")
]
TemperatureScaling = Annotated[
    bool, typer.Option("--temperature-scaling", help="Make the probabilities honest, on the calibration images.")
]
Seed = Annotated[int, typer.Option(help="Of splits, initialisation, order and augmentation.")]
Split = Annotated[str | None, typer.Option(help="Held-out images: a count, a share or a data set.", show_default=False)]
Side = Annotated[int | None, typer.Option(help="Side of the square input in pixels.", show_default=False)]
Workers = Annotated[int | None, typer.Option(help="Processes that decode large images.", show_default=False)]


def train(
    data: Data,
    method: Annotated[str, typer.Option(help="See: guard methods.")] = _TRAIN["method"],
    backbone: Annotated[
        str, typer.Option(help="wrn10_2, wrn16_2, wrn40_2, resnet18_small, resnet34_small, any timm name, or auto.")
    ] = _TRAIN["backbone"],
    head: Annotated[str | None, typer.Option(help="See: guard heads; default the method's.")] = None,
    head_options: Annotated[
        list[str] | None,
        typer.Option(
            "--head-set", metavar="NAME=VALUE", help="An option of the head; see: guard heads NAME. Repeatable."
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="See: guard scores; default the method's. A+B combines several.")
    ] = None,
    score_options: Annotated[
        list[str] | None,
        typer.Option(
            "--score-set", metavar="NAME=VALUE", help="An option of the score; see: guard scores NAME. Repeatable."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; default the method's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="In-distribution images per step; default 128, or 32 for small data.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; default the method's.")] = None,
    seed: Seed = _TRAIN["seed"],
    device: Device = _TRAIN["device"],
    outliers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT[=WEIGHT]",
            help="Images that are not in-distribution, a store of guard synth, or a synthesiser (see: guard "
            "synthesisers). Repeatable; each step takes shares by weight.",
        ),
    ] = None,
    ood_val: Annotated[
        list[str] | None,
        typer.Option(
            "--ood-val", metavar="NAME=PATH", help="OOD set to report AUROC on, never trained on. Repeatable."
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    alpha: Alpha = _TRAIN["alpha"],
    class_conditional: ClassConditional = False,
    temperature_scaling: TemperatureScaling = False,
    image_size: Side = None,
    in_chans: Annotated[int, typer.Option(help="3, or 1 for grey.")] = _TRAIN["in_chans"],
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start a timm backbone pretrained.")] = False,
    init: Annotated[Path | None, typer.Option(help="Run folder to start the network from.")] = None,
    calibration: Split = None,
    test: Split = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights, e.g. 0.999.")] = None,
    augment: Annotated[str, typer.Option(help="none, crop, crop+flip, or auto.")] = _TRAIN["augment"],
    workers: Workers = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="An option of the method; see: guard methods NAME. Repeatable."
        ),
    ] = None,
    no_export: NoExport = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a classifier with a guard and write it to a run folder, with guard.onnx in it."""
    if resume and out is None:
        raise ConfigError("--resume needs --out, the run folder to go on with")
    folder = out or runs.new_run_folder(method)
    with runs.removed_if_unused(folder):
        g = api.train(
            data,
            method=method,
            backbone=backbone,
            head=head,
            head_options=settings(head_options, flag="--head-set") if head_options else None,
            score=score,
            score_options=settings(score_options, flag="--score-set") if score_options else None,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
            outliers=weighted(outliers) if outliers else None,
            ood_val=named_sets(ood_val) if ood_val else None,
            out=folder,
            resume=resume,
            alpha=alpha,
            class_conditional=class_conditional,
            temperature_scaling=temperature_scaling,
            image_size=image_size,
            in_chans=in_chans,
            pretrained=pretrained,
            init=init,
            calibration=value(calibration) if calibration else None,
            test=value(test) if test else None,
            ema=ema,
            augment=augment,
            workers=workers,
            **settings(options or [], api.train),
        )
    _finish(g, folder, export=not no_export, json=json)


def fit(
    data: Data,
    model: Annotated[
        str,
        typer.Option(
            help="A timm name, Hugging Face folder or hub id, .onnx file, run folder, or package.module:callable."
        ),
    ],
    checkpoint: Annotated[Path | None, typer.Option(help="The model's weights, safetensors.")] = None,
    score: Annotated[str, typer.Option(help="See: guard scores.")] = _FIT["score"],
    features: Annotated[
        str | None, typer.Option(help="Module, or tensor of an ONNX file, that is the feature vector; default found.")
    ] = None,
    processor: Annotated[
        str | None, typer.Option(help="Folder of a Hugging Face model's image processor; default the model's.")
    ] = None,
    image_size: Side = None,
    in_chans: Annotated[int | None, typer.Option(help="3, or 1 for grey; default the model's.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation, e.g. 0.5,0.5,0.5; default the model's.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation; default the model's.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = _FIT["batch_size"],
    seed: Seed = _FIT["seed"],
    device: Device = _FIT["device"],
    alpha: Alpha = _FIT["alpha"],
    class_conditional: ClassConditional = False,
    temperature_scaling: TemperatureScaling = False,
    calibration: Split = None,
    test: Split = None,
    out: Out = None,
    name: Annotated[str | None, typer.Option(help="What the guard is called in answers.")] = None,
    workers: Workers = None,
    score_options: Annotated[
        list[str] | None,
        typer.Option(
            "--score-set", metavar="NAME=VALUE", help="An option of the score; see: guard scores NAME. Repeatable."
        ),
    ] = None,
    no_export: NoExport = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Guard a classifier that you already have; its weights and answers stay as they are."""
    folder = out or runs.new_run_folder(f"fit-{score}")
    with runs.removed_if_unused(folder):
        g = api.fit(
            classifier(model, checkpoint, in_chans=in_chans, image_size=image_size),
            data,
            score=score,
            score_options=settings(score_options, flag="--score-set") if score_options else None,
            features=features,
            processor=processor,
            image_size=image_size,
            in_chans=in_chans,
            mean=numbers(mean),
            std=numbers(std),
            batch_size=batch_size,
            seed=seed,
            device=device,
            alpha=alpha,
            class_conditional=class_conditional,
            temperature_scaling=temperature_scaling,
            calibration=value(calibration) if calibration else None,
            test=value(test) if test else None,
            out=folder,
            name=name,
            workers=workers,
        )
    _finish(g, folder, export=not no_export, json=json)


def _finish(g: Any, folder: Path, *, export: bool, json: bool) -> None:
    """Export where the score can be, mark as the latest run, and say what was made."""
    from ..scores import get_score

    score = get_score(g.manifest.score)
    why_not = f"{score.no_export}; the nearest score that exports is {score.nearest}" if score.no_export else ""
    exported = api.export(g, folder / "guard.onnx") if export and not why_not else None
    runs.mark_latest(folder)
    if json:
        output.print_json(output.summary(g, folder, exported, why_not))
    else:
        output.print_summary(g, folder, exported, why_not)


def export(
    run: Annotated[Path, typer.Argument(help="Run folder of guard train or guard fit.")],
    path: Annotated[Path, typer.Argument(metavar="OUT", help="Ends in .onnx or .engine (TensorRT).")],
    data: Annotated[
        str | None, typer.Option(help="Images to verify on; default the calibration images.", show_default=False)
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32.")] = _EXPORT["precision"],
    max_flag_flips: Annotated[int, typer.Option(help="Images that may change label or flag.")] = _EXPORT[
        "max_flag_flips"
    ],
    max_batch: Annotated[int, typer.Option(help="Largest batch of a TensorRT engine.")] = _EXPORT["max_batch"],
    debug: Debug = False,
) -> None:
    """Write a guard as one graph, compared with its source before it is kept."""
    written = api.export(run, path, precision=precision, data=data, max_flag_flips=max_flag_flips, max_batch=max_batch)
    typer.echo(f"wrote {written} ({written.stat().st_size / 1e6:.1f} MB)")


def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The exported guard.")],
    against: Annotated[Path, typer.Option(help="Its source: a run folder or another export.")],
    data: Annotated[str, typer.Option(help="Images in any form that guard train takes.")],
    batch_size: Annotated[int, typer.Option(help="Images per run.")] = _VERIFY["batch_size"],
    max_flag_flips: Annotated[int, typer.Option(help="Images that may change label or flag.")] = _VERIFY[
        "max_flag_flips"
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare an exported guard with its source: scores, labels and flags."""
    report = api.verify(path, against=against, data=data, batch_size=batch_size, max_flag_flips=max_flag_flips)
    if json:
        output.print_json(report)
    else:
        typer.echo(str(report))


COMMANDS: dict[str, Callable[..., None]] = {"train": train, "fit": fit, "export": export, "verify": verify}
