"""What is lowered so that the documentation's blocks train for a moment: amounts, and never which options there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from guard.requests import TrainRequest
from tests.conftest import DIFFUSION, RECIPES
from train.methods import get_method
from train.outliers.base import get_synthesiser

SMALL = "test_resnet"  # timm's smallest

#: words of a command -> what stands in for them
INSTEAD: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--backbone", "resnet50"): ("--backbone", SMALL),
    ("--model", "resnet18"): ("--model", "path/to/hf_folder"),
    ("--pretrained",): ("--weights", "path/to/timm_folder"),
    ("--workers", "8"): ("--workers", "0"),
    ("--count", "2000"): ("--count", "24"),
    ("--set", "store_size=20000"): ("--set", "store_size=24"),
    ("--set", "pair.epochs=10"): ("--set", "pair.epochs=1"),
    ("--set", "gan.epochs=10"): ("--set", "gan.epochs=1"),
    ("--set", "embed.per_class=300"): ("--set", "embed.per_class=4"),
    ("--set", "hidden=2048"): ("--set", "hidden=16"),
    ("--set", "teacher.model=vit_base_patch16_224"): ("--set", "teacher.model=wrn10_2"),
    ("--set", "teacher.pretrained=true"): (),
}

#: what a block decides -> the small options that are not read then
UNREAD = {
    "sampler=interpolation": ("encoder",),
    "kinds=decoded": ("blurred", "tune_epochs"),
    "pair.model=my_generators:stylegan_xl": ("pair",),
}

TRAIN = {"--epochs": "1", "--batch-size": "16", "--device": "cpu"}
#: synthesisers under another name than the method -> a method that trains what they draw from
MADE_BY = {"cmg": "cmg_s"}

SYNTH = {"--count": "24", "--device": "cpu"}

#: of a command -> flags that are added where it does not give them itself
ADDED: dict[str, dict[str, str]] = {
    "train": TRAIN,
    "synth": SYNTH,
    "fit": {"--device": "cpu"},
    "eval": {"--bootstrap": "20"},
    "bench": {"--rounds": "1", "--no-memory": "", "--batch-sizes": "1"},
    "benchmark": {"--plan": ""},
}

#: of a function of Python -> arguments that are added
ARGUMENTS: dict[str, dict[str, Any]] = {
    "train": {"epochs": 1, "device": "cpu", "backbone": "wrn10_2"},
    "synth": {"count": 24, "device": "cpu"},
    "fit": {"device": "cpu"},
    "evaluate": {"bootstrap": 20, "max_images": 40},
}


def lowered(name: str, words: list[str], *, exports: bool = True) -> list[str]:
    """The words after ``guard NAME``, under the budget; `exports`: the run's own file is used later on."""
    for given, small in INSTEAD.items():
        words = _replaced(words, given, small)
    if name == "train":
        if not {"--backbone", "--weights"} & set(words):
            words = [*words, "--backbone", "wrn10_2"]
        if not exports:
            words = [*words, "--no-export"]
    if name in ("train", "synth") and "--method" in words:
        words = [*words, *_options(name, words[words.index("--method") + 1], words)]
    method = words[words.index("--method") + 1] if "--method" in words else "plain"
    idle = {"--epochs"} if name == "train" and "--init" in words and _tunes_alone(method) else set()
    for flag, value in ADDED.get(name, {}).items():
        if flag not in words and flag not in idle:
            words = [*words, *([flag, value] if value else [flag])]
    return words


def arguments(function: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``guard.FUNCTION`` under the budget."""
    making = function in ("train", "synth")
    method = given.get("method", "plain")
    small = small_options(function, method, dict(_flat(given))) if making else {}
    added = dict(ARGUMENTS[function])
    if function == "train" and "init" in given and _tunes_alone(method):
        del added["epochs"]
    return _merged({**added, **small}, given)


def _tunes_alone(method: str) -> bool:
    """Whether a start takes the place of the stage that reads epochs=."""
    return "tune_epochs" in get_method(method).Options.model_fields


def small_options(name: str, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Of the recipe in `tests.conftest`: what `given`, under dotted names, leaves open, nested as in Python."""
    recipe = RECIPES.get(MADE_BY.get(method, method), {})
    own: Collection[str] = (
        get_synthesiser(method).Options.model_fields if name == "synth" else recipe.keys() - TrainRequest.model_fields
    )
    small = {key: recipe[key] for key in recipe if key in own}
    for decided in UNREAD.keys() & {f"{key}={value}" for key, value in given.items()}:
        small = {key: value for key, value in small.items() if key not in UNREAD[decided]}
    if any(key.startswith("diffusion.") for key in given):
        pipeline = given.get("diffusion.model") == "stable-diffusion"
        small["diffusion"] = {"sampling_steps": 2} if pipeline else DIFFUSION
    return small


def _options(name: str, method: str, words: list[str]) -> Iterator[str]:
    """``--set`` for every small option that the block does not decide."""
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words if "=" in word}
    for key, value in _flat(small_options(name, method, given)):
        inside = any(key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in given)
        if key not in given and not inside:
            yield from ("--set", f"{key}={value}")


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merged(small: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What is given, and of what is small the rest, also inside of nested options."""
    both = {key for key in small if isinstance(small[key], dict) and isinstance(given.get(key), dict)}
    return {**small, **given, **{key: {**small[key], **given[key]} for key in both}}


def _replaced(words: list[str], given: tuple[str, ...], small: tuple[str, ...]) -> list[str]:
    for i in range(len(words) - len(given) + 1):
        if tuple(words[i : i + len(given)]) == given:
            return [*words[:i], *small, *words[i + len(given) :]]
    return words
