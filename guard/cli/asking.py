"""``guard predict``, ``eval``, ``methods``, ``heads``, ``scores``: ask a guard, and ask what there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import api
from .._siblings import needs
from ..errors import ImageError
from ..verdict import Verdict
from . import output
from .arguments import Debug, Json, defaults, image_paths, named_sets

_EVALUATE = defaults(api.evaluate)
_BATCH = 64

Model = Annotated[Path, typer.Argument(help="guard.onnx, guard.engine or a run folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def predict(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Image files, and folders of them.")],
    threshold: Annotated[
        float | None, typer.Option(help="Flag above this ood_score; default the calibrated one.", show_default=False)
    ] = None,
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Label and judge images.

    A file that is no image is named on standard error, the others are answered, and the exit code is 2.
    """
    g = api.load(model, device=device)
    paths = image_paths(images)
    answers: list[tuple[Path, Verdict]] = []
    unreadable: list[ImageError] = []
    for start in range(0, len(paths), _BATCH):
        readable, pixels = [], []
        for path in paths[start : start + _BATCH]:
            try:
                pixels.append(_pixels(path, g))
                readable.append(path)
            except ImageError as error:
                unreadable.append(error)
        answers += zip(readable, g.predict(pixels, threshold=threshold), strict=True)
    if json:
        output.print_json([{"image": str(path), **verdict.to_dict()} for path, verdict in answers])
    elif answers:
        output.print_verdicts(answers, g.manifest.identity)
    for problem in unreadable[:-1]:
        typer.echo(f"error: {problem}", err=True)
    if unreadable:
        raise unreadable[-1]


def _pixels(path: Path, g: Any) -> Any:
    from ..preprocess import to_input

    return to_input(path, g.manifest.preprocess)


def evaluate(
    model: Model,
    id: Annotated[str, typer.Option("--id", help="Labelled in-distribution test images.")],
    ood: Annotated[
        list[str] | None,
        typer.Option(
            "--ood",
            metavar="NAME=PATH",
            help="OOD images. Repeatable. A plain path is named after its file or folder; "
            "a folder of Parquet files is one set per file.",
        ),
    ] = None,
    near: Annotated[
        list[str] | None, typer.Option("--near", metavar="NAME", help="Which OOD sets are near-OOD. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="report.html to write, with report.json beside it.", show_default=False)
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the 95 % intervals; 0 for none.")] = _EVALUATE[
        "bootstrap"
    ],
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = _EVALUATE["seed"],
    batch_size: Annotated[int, typer.Option(help="Images per run.")] = _EVALUATE["batch_size"],
    max_images: Annotated[
        int | None, typer.Option(help="Use at most this many of each set.", show_default=False)
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure accuracy, false-alarm rate and OOD detection."""
    evaluation = api.evaluate(
        model,
        id=id,
        ood=named_sets(ood or []),
        near=near or (),
        out=out,
        bootstrap=bootstrap,
        seed=seed,
        batch_size=batch_size,
        max_images=max_images,
    )
    if json:
        output.print_json(evaluation)
        return
    typer.echo(str(evaluation))
    if out is not None:
        typer.echo(f"\nreport: {out}")


Pattern = Annotated[str, typer.Argument(metavar="[NAME|PATTERN]", help="A name shows its options; '*mix*' filters.")]


def methods(pattern: Pattern = "*", json: Json = False, debug: Debug = False) -> None:
    """List the training methods, or show one method's options."""
    registry = needs("train", "train.methods")
    show("method", pattern, registry.list_methods(), registry.get_method, json)


def heads(pattern: Pattern = "*", json: Json = False, debug: Debug = False) -> None:
    """List the classifier heads, or show one head's options."""
    from ..errors import MissingExtraError

    try:
        from .. import heads as registry
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (needed by the heads)", "train") from error
    show("head", pattern, registry.list_heads(), registry.head_class, json)


def scores(
    pattern: Pattern = "*",
    model: Annotated[
        str | None, typer.Option(help="What guard fit takes as --model: says which scores it can have, or why not.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the scores with what they need, or show one score's options."""
    from ..errors import MissingExtraError
    from .classifiers import classifier

    try:
        from .. import scores as registry
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} (needed by the scores)", "train") from error
    if model is None and not _is_pattern(pattern):
        show("score", pattern, registry.list_scores(), registry.get_score, json)
        return
    if not _is_pattern(pattern):
        registry.get_score(pattern)  # an unknown name raises, with near matches
    listed = api.list_scores(pattern, model=None if model is None else classifier(model))
    if json:
        summaries = (output.card(registry.get_score(row.name))["summary"] for row in listed.rows)
        output.print_json([{**row.model_dump(), "summary": s} for row, s in zip(listed.rows, summaries, strict=True)])
    else:
        output.print_rows(listed.rows[0].columns() if listed else (), (row.cells() for row in listed.rows))


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def show(kind: str, pattern: str, names: list[str], get: Callable[[str], Any], json: bool) -> None:
    """One registered thing in full, or the list of those that match."""
    from fnmatch import filter as matching

    if not _is_pattern(pattern):
        card = output.card(get(pattern))  # an unknown name raises, with near matches
        if json:
            output.print_json(card)
        else:
            output.print_card(kind, card)
        return
    cards = [output.card(get(name)) for name in matching(names, pattern)]
    if json:
        output.print_json([{"name": c["name"], "summary": c["summary"]} for c in cards])
    else:
        output.print_cards(kind, cards)


COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict,
    "eval": evaluate,
    "methods": methods,
    "heads": heads,
    "scores": scores,
}
