"""What a benchmark is asked for: the keys of the YAML file of ``guard benchmark``, as frozen records. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from .benchmark_needs import Needs
from .benchmark_published import PublishedTable
from .record import Record, option
from .requests import ALPHA, SEED, Request

MOST_SEEDS = 10_000  # that may be counted; more is a slip, a seed without its brackets
SEEDS = "must be a number of seeds, or a list of different integers from 0 to 2^31 - 1 like [0, 1, 2]"


class DataParts(Record):
    """The in-distribution images; what is given alone is `train`."""

    train: Any = option(..., "Labelled images in any form that guard train takes.", common=True)
    test: Any = option(None, "Labelled test images; default the test split that each seed holds out.", common=True)
    leave_out: tuple[tuple[str, ...], ...] = option(
        (),
        "Classes left out of training, a near-OOD set: a list of names, or several lists, each of which is a choice.",
        rule="must be a list of class names, or several such lists, like [[rose, tulip], [daisy, rose]]",
    )

    by_seed: bool = option(
        False, "Each seed leaves out one of the choices, in turn; default: every seed trains without each of them."
    )

    shifted: Mapping[str, Any] = option(
        {},
        "Further labelled images of some of the classes, by name, whose accuracy is measured.",
        rule="must map names to images, like {imagenet_v2: imagenet_v2/}",
    )

    @model_validator(mode="before")
    @classmethod
    def _train_alone(cls, given: Any) -> Any:
        return given if isinstance(given, Mapping | DataParts) else {"train": given}

    @field_validator("leave_out", mode="before")
    @classmethod
    def _one_choice(cls, given: Any) -> Any:
        if isinstance(given, list | tuple) and given and all(isinstance(name, str) for name in given):
            return (tuple(given),)
        return given

    @field_validator("leave_out")
    @classmethod
    def _each_once(cls, given: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if len({frozenset(names) for names in given}) < len(given):
            raise ValueError("each choice once")
        return given


class OodSets(Record):
    """Images that are none of the classes, by name; labels are ignored."""

    near: Mapping[str, Any] = option(
        {}, "Sets close to the classes, by name.", rule="must map names to images, like {tiny_imagenet: ood/t.parquet}"
    )
    far: Mapping[str, Any] = option(
        {}, "Sets unlike any class, by name.", rule="must map names to images, like {mnist: ood/mnist.parquet}"
    )

    other: Mapping[str, Any] = option(
        {}, "Sets that are measured and count in neither mean.", rule="must map names to images, like {svhn: svhn/}"
    )

    @field_validator("near", "far", "other", mode="before")
    @classmethod
    def _none(cls, given: Any) -> Any:
        return {} if given is None else given


class BenchmarkFile(Request):
    """The keys of a benchmark's file, in the order in which they are best written."""

    function: ClassVar[str] = "the benchmark"
    name: str = option("benchmark", "Of the report; default the file's.")
    root: str | None = option(None, "Where relative paths of images are looked up; default the file's own folder.")
    data: DataParts = option(..., "In-distribution images: train, and test where there are some apart.")
    ood: OodSets = option(..., "OOD sets by name, near and far; letters, photo_patches, smooth_noise are made.")
    backbones: tuple[str, ...] = option(("auto",), "Networks, as guard train takes them.", min_length=1)
    heads: tuple[str, ...] = option((), "Each method is trained with each of these heads; default each method's own.")
    epochs: int | None = option(None, "Passes over the training split; default each method's own.", ge=1)
    seeds: tuple[int, ...] = option((0,), "A list of seeds, or how many, from 0 on.", rule=SEEDS, min_length=1)
    training: Mapping[str, Any] = option(
        {}, "Arguments of guard train for every method.", rule="must map arguments to values, like {batch_size: 64}"
    )
    stores: Mapping[str, Any] = option(
        {},
        "Outliers made once per seed, by name, with the arguments of guard synth; outliers: store:NAME takes them.",
        rule="must map names to arguments of guard synth, like {mixes: {method: phase_mix, count: 20000}}",
    )
    methods: Mapping[str, Mapping[str, Any]] = option(
        ...,
        "Trainings by name: arguments of guard train and options of the method; init: NAME starts from that one.",
        rule="must map names to arguments of guard train, like {plain: {}, phase_mix: {init: plain}}",
        min_length=1,
    )
    only: tuple[str, ...] = option((), "Methods that are run, and those that they start from; default all.")
    scores: tuple[Any, ...] = option(
        ("own",),
        "Scores fitted on every network: names, {name: knn, k: 10} with options, own for the method's (a combination "
        "also where few images are held out).",
        min_length=1,
    )
    compare: Literal["pytorch-ood"] | None = option(
        None, "Another library whose detectors see the same features and logits: pytorch-ood."
    )
    baseline: str | None = option(None, "The method that the others are compared with; default the first.")
    alpha: float = option(0.05, "False-alarm rate that every threshold is set to.", **ALPHA, gt=0, lt=1)
    max_images: int | None = option(None, "At most this many images of the test set and of each OOD set.", ge=2)
    needs: Needs = option(Needs(), "What must be there, and what it is expected to take; read by --plan.")
    published: tuple[PublishedTable, ...] = option(
        (), "Tables of a paper, which the report prints beside its own numbers, with the differences."
    )
    out: str | None = option(None, "Folder of runs and report; default runs/NAME beside the file.")

    @field_validator("backbones", "heads", "only", "scores", mode="before")
    @classmethod
    def _one_alone(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str | Mapping) else given

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, given: Any) -> Any:
        counted = isinstance(given, int) and not isinstance(given, bool) and given <= MOST_SEEDS
        return tuple(range(given)) if counted else given

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(given)) < len(given) or any(not SEED["ge"] <= seed < SEED["lt"] for seed in given):
            raise ValueError("each seed once")
        return given

    @field_validator("training", "stores", mode="before")
    @classmethod
    def _nothing(cls, given: Any) -> Any:
        return {} if given is None else given

    @field_validator("methods", mode="before")
    @classmethod
    def _bare_names(cls, given: Any) -> Any:
        """``plain:`` with nothing behind it has no arguments."""
        if not isinstance(given, Mapping):
            return given
        return {str(name): {} if arguments is None else arguments for name, arguments in given.items()}
