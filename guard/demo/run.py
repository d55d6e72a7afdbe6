"""The whole path on one page: train, export, verify, evaluate, serve, ask over HTTP. ``guard demo`` runs it.

The classifier learns the digits 0 to 7. Digits 8 and 9 are near-OOD; patches of photographs, noise and letters are
far-OOD. All of it is in the installed packages or made on the spot. The images asked over HTTP are the first of each
set, not chosen ones, and the numbers printed are those that came out.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .. import api
from .._siblings import sibling
from ..client import Client, ServedVerdict
from ..errors import ConfigError
from ..paths import path_given
from . import images as demo_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..detector import Guard
    from ..evaluation.result import Evaluation

INSIDE, NEAR = "digits:0-7", "digits 8-9"
OOD_IMAGES = 400  # of each far-OOD set, about as many as there are test digits
MARKER = ".made-by-guard-demo"  # only a folder with it is emptied


@dataclass(frozen=True)
class Answer:
    """One image sent over HTTP: which set it is from, and the service's verdict."""

    source: str
    verdict: ServedVerdict


@dataclass(frozen=True)
class DemoResult:
    """What the demo made and measured; `seconds` for all of it."""

    model: Path
    report: Path
    evaluation: Evaluation
    answers: tuple[Answer, ...]
    seconds: float


def run(out: Path = Path("runs/demo"), *, keep_serving: bool = False, console: Console | None = None) -> DemoResult:
    """Run the demo and print it.

    Args:
        out: folder for the run, guard.onnx and report.html; an earlier demo in it is replaced.
        keep_serving: leave the service up until an interrupt.
        console: where to print; default standard output.

    Raises:
        ConfigError: `out` holds something else than a demo.
    """
    running_service = sibling("serving.runner").running_service
    show = console or Console(markup=False, highlight=False)
    began = time.perf_counter()
    out = path_given(out, "out")
    _fresh_folder(out)
    model, report = out / "guard.onnx", out / "report.html"

    with _stage(show, "1/5 train: a classifier for the digits 0 to 7, with a guard"):
        g = api.train(INSIDE, out=out)
        show.print(g)
    with _stage(show, "2/5 export: one ONNX file with classifier, score, threshold and p-values"):
        api.export(g, model)
        show.print(f"{model}: {model.stat().st_size / 1e6:.1f} MB; it runs without torch")
    with _stage(show, "3/5 verify: does the file decide like the classifier that was trained?"):
        show.print(str(api.verify(model, against=g, data=INSIDE)))
    with _stage(show, "4/5 evaluate: false alarms on held-out digits, detection of what is not a digit 0 to 7"):
        evaluation = api.evaluate(model, id=INSIDE, ood=_ood_sets(g), near=[NEAR], out=report)
        show.print(evaluation.table())
    with _stage(show, "5/5 serve: the same file over HTTP"), running_service(model) as address:
        answers = _ask(address, _questions(g))
        show.print(f"POST {address}/predict, the first images of each set:\n")
        show.print(_table(answers))
        if keep_serving:
            show.print(f"\nthe page is at {address}/ui; stop with Ctrl-C")
            _wait_for_interrupt()

    seconds = time.perf_counter() - began
    show.print(f"--- done in {seconds:.0f} s", style="bold")
    show.print(_next_steps(model, report))
    return DemoResult(model, report, evaluation, answers, seconds)


def _fresh_folder(out: Path) -> None:
    if (out / MARKER).is_file():
        shutil.rmtree(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} exists already and is not an earlier demo; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()


@contextmanager
def _stage(show: Console, title: str) -> Iterator[None]:
    show.print(f"--- {title}", style="bold")
    began = time.perf_counter()
    yield
    show.print(f"({time.perf_counter() - began:.1f} s)\n")


def _ood_sets(g: Guard) -> dict[str, Any]:
    side = g.manifest.preprocess.height
    return {
        NEAR: "digits:8-9",
        "photo patches": demo_images.photo_patches(OOD_IMAGES, side),
        "uniform noise": demo_images.uniform_noise(OOD_IMAGES, side),
        "smooth noise": demo_images.smooth_noise(OOD_IMAGES, side),
        "letters": demo_images.letters(OOD_IMAGES, side),
    }


def _questions(g: Guard, each: int = 2) -> list[tuple[str, np.ndarray]]:
    """(set, image): the first test digits, which training and calibration never saw, then the first of each OOD set."""
    from ..data import load  # loads torch

    digits = load(INSIDE)
    assert digits.labels is not None
    rows = g.splits["test"][: 2 * each]
    names = [f"digit {digits.class_names[digits.labels[row]]}" for row in rows]
    asked = list(zip(names, digits.take(rows), strict=True))
    for name, images in _ood_sets(g).items():
        first = load(images, labelled=False).take(np.arange(each))
        asked += [(name, image) for image in first]
    return asked


def _ask(address: str, questions: list[tuple[str, np.ndarray]]) -> tuple[Answer, ...]:
    """The service's verdict on each image; set it is from, image."""
    with Client(address, transport=_direct()) as service:
        return tuple(Answer(source, service.predict(image.squeeze())) for source, image in questions)


def _direct() -> Any:
    """To this machine, whatever proxy the environment names."""
    import httpx

    return httpx.HTTPTransport()


def _table(answers: tuple[Answer, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("sent", "answer", "probability", "ood_score", "p", "is_ood"):
        table.add_column(title, justify="right" if title in ("probability", "ood_score", "p") else "left")
    for sent in answers:
        v = sent.verdict
        numbers = (f"{v.probability:.3f}", f"{v.ood_score:.3f}", f"{v.p_value:.4f}")
        style = "yellow" if v.is_ood else None
        table.add_row(sent.source, v.class_name, *numbers, "OOD" if v.is_ood else "no", style=style)
    return table


def _next_steps(model: Path, report: Path) -> str:
    guard = "guard" if shutil.which("guard") else _relative(Path(sys.executable).parent / "guard")
    return (
        f"report: {report}\n"
        f"next:   {guard} serve {model}\n"
        f"        {guard} predict {model} IMAGE ...\n"
        f"        {guard} train FOLDER_WITH_ONE_SUBFOLDER_PER_CLASS"
    )


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _wait_for_interrupt() -> None:
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
