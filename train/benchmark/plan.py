"""The runs of a benchmark: what each trains and measures, what it needs first, and what identifies it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from guard.benchmark_file import BenchmarkFile
from guard.data.forms import open_source
from guard.record import Record
from guard.requests import SynthRequest, TrainRequest

from ..cache.keyed import digest, file_digest, named_model
from ..cache.shared_model import SharedOptions
from ..outliers.base import get_synthesiser, list_synthesisers
from ..outliers.sources import weighted
from ..runs.resolve import asked_method
from . import asked as scores
from .card import card_of
from .file import located
from .sets import SOURCE, Sets

PICTURES = "mixing_set"  # an argument of guard.train that names images
WEIGHTS = "pretrained"  # one that may name a file of weights
IDLE = {"device", "workers", "threads", "gallery"}  # arguments of guard.train and guard.synth that decide nothing
RUN, STORE = "run:", "store:"  # before the name of another run, or of a store
LONGEST = 80  # bytes of a name in a path: a lock's file name holds backbone, method, head and seed


@dataclass(frozen=True)
class Run:
    """One training, and the scores that are fitted on its network.

    Attributes:
        name: of the method in the file. head: the one that `heads` names; "" where the method's own is trained.
        trained_head: the head, whoever named it.
        arguments: of guard.train, without the reserved ones; names of other runs as they are in the file.
        needs: the runs that must be trained before, by what the arguments call them.
        left_out: the classes that are not trained on, of `data.leave_out`.
    """

    backbone: str
    name: str
    head: str
    seed: int
    trained_head: str
    arguments: Mapping[str, Any] = field(repr=False)
    scores: tuple[scores.AskedScore, ...] = field(repr=False)
    needs: Mapping[str, Run] = field(repr=False)
    left_out: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Its folder below ``runs/``; also the name of its lock."""
        choice = f"without-{plain('-'.join(self.left_out))}/" if self.left_out else ""
        head = f"-{plain(self.head)}" if self.head else ""
        return f"{choice}{plain(self.backbone)}/{plain(self.name)}{head}-s{self.seed}"

    @property
    def title(self) -> str:
        """For people."""
        head = f", {self.head} head" if self.head else ""
        choice = f", without {' and '.join(self.left_out)}" if self.left_out else ""
        return f"{self.name}{head}, {self.backbone}{choice}, seed {self.seed}"

    def ancestors(self) -> list[Run]:
        """The runs that it starts from, directly or through others; each once."""
        found: dict[str, Run] = {}
        for run in self.needs.values():
            found |= {one.place: one for one in (*run.ancestors(), run)}
        return list(found.values())


@dataclass(frozen=True)
class Plan:
    """What is asked for, the images, and the runs in an order in which each comes after those that it needs."""

    asked: BenchmarkFile
    folder: Path  # that relative paths of images are looked up in
    sets: Sets
    runs: tuple[Run, ...]

    @property
    def out(self) -> Path:
        return Path(str(self.asked.out))

    def place(self, run: Run) -> Path:
        """The run's folder."""
        return self.out / "runs" / run.place

    @cached_property
    def _identities(self) -> dict[str, str]:
        return {}

    def identity(self, run: Run) -> str:
        """Hex digits of everything that decides the trained network.

        Versions before counted what only runs a training too: where the folder holds one that they made of these
        arguments, the identity is that one's, for the network is what is asked for.
        """
        if run.place not in self._identities:
            found, card = self._identity(run), card_of(self.place(run))
            if card is not None and card.identity != found and self._identity(run, before=True) == card.identity:
                found = card.identity
            self._identities[run.place] = found
        return self._identities[run.place]

    def _identity(self, run: Run, before: bool = False) -> str:
        told, epochs = self._counted(run, before)
        return digest(
            {
                "data": self.sets.identity(SOURCE),
                "backbone": run.backbone,
                "head": run.trained_head,
                "seed": run.seed,
                "epochs": epochs,
                "arguments": self._identified(told, run, before),
            }
        )

    def asked_for(self, run: Run, before: bool = False) -> str:
        """Hex digits of what the file says of a run and of those that it starts from: `identity` without the images.

        Args:
            before: with what versions before counted.
        """
        arguments, epochs = self._counted(run, before)
        told = {
            "backbone": run.backbone,
            "head": run.trained_head,
            "seed": run.seed,
            "epochs": epochs,
            "arguments": arguments,
            "needs": {name: self.asked_for(needed, before) for name, needed in run.needs.items()},
        }
        return digest(json.loads(json.dumps(told, default=str)))

    def _counted(self, run: Run, before: bool) -> tuple[dict[str, Any], int | None]:
        """The arguments, and the file's epochs, without what decides nothing."""
        told = {**self.asked.training, **run.arguments}
        if before:
            return told, self.asked.epochs
        return deciding(told), None if "epochs" in told else self.asked.epochs

    def _identified(self, arguments: Mapping[str, Any], run: Run, before: bool) -> dict[str, Any]:
        """With what identifies them in the place of runs, stores and images."""
        found = {key: with_runs(value, lambda name: self.identity(run.needs[name])) for key, value in arguments.items()}
        if isinstance(start := found.get("init"), str) and start in run.needs:
            found["init"] = self.identity(run.needs[start])
        if (outliers := arguments.get("outliers")) is not None:
            found["outliers"] = [[self._which(what, run.seed, before), weight] for what, weight in weighted(outliers)]
        if (pictures := arguments.get(PICTURES)) is not None:
            found[PICTURES] = self._which(pictures, run.seed, before)
        if isinstance(weights := arguments.get(WEIGHTS), str):
            found[WEIGHTS] = named_weights(located(weights, self.folder))
        return found

    def _which(self, outliers: Any, seed: int, before: bool) -> Any:
        """What identifies a source of outliers."""
        if isinstance(outliers, str) and outliers.startswith(STORE):
            arguments = self.store_arguments(outliers.removeprefix(STORE))
            return {"store": arguments if before else deciding(arguments), "seed": seed}
        if isinstance(outliers, str) and outliers in list_synthesisers():
            return outliers
        return open_source(located(outliers, self.folder), labelled=False).fingerprint()

    def request(self, run: Run, source: Any = None) -> TrainRequest:
        """What `guard.train` is asked for, with runs, stores and shared models by their folders."""
        every = {**self.asked.training, **run.arguments}
        told = {
            key: with_runs(value, lambda name: str(self._folder_of(run.needs[name]))) for key, value in every.items()
        }
        for name in (PICTURES, WEIGHTS):
            if name in told:
                told[name] = located(told[name], self.folder)
        if told.get("init") in run.needs:
            told["init"] = self.place(run.needs[told["init"]])
        if told.get("outliers") is not None:
            pairs = [(self._found(what, run.seed), weight) for what, weight in weighted(told["outliers"])]
            told["outliers"] = pairs[0][0] if len(pairs) == 1 else dict(pairs)
        method = asked_method(train_request(self.asked, run.backbone, told, seed=run.seed))
        unread = method.unread_with(told.get("outliers"))
        shared = self._shared(told, method.Options, run.seed)
        told |= {name: value for name, value in shared.items() if name not in unread}
        with_head = {"head": run.head} if run.head else {}
        return train_request(
            self.asked, run.backbone, {**told, **with_head}, seed=run.seed, data=source, out=self.place(run)
        )

    def _folder_of(self, run: Run) -> Path:
        """A run's folder; before there is one, a folder that is there, for options that must name one."""
        return folder if (folder := self.place(run)).is_dir() else self.out

    def _found(self, outliers: Any, seed: int) -> Any:
        if isinstance(outliers, str) and outliers.startswith(STORE):
            return str(self.store(outliers.removeprefix(STORE), seed))
        ours = isinstance(outliers, str) and outliers in list_synthesisers()
        return outliers if ours else located(outliers, self.folder)

    def store(self, name: str, seed: int) -> Path:
        """The folder of a store: another one where anything that decides it is another."""
        arguments = self.store_arguments(name)
        return self._kept(f"stores/{plain(name)}-s{seed}-", [deciding(arguments)], [arguments], "")

    def _kept(self, begins: str, decides: list[Any], before: list[Any], ends: str) -> Path:
        """The folder, below `out`, of what is made of the images and of what decides it; the one where versions before
        made it, who counted more."""
        now, then = (
            self.out / f"{begins}{digest([self.sets.identity(SOURCE), *what])}{ends}" for what in (decides, before)
        )
        return then if then.exists() else now

    def store_arguments(self, name: str) -> dict[str, Any]:
        """Of guard.synth, with the images that the trainings hold out: outliers made of these would be a leak."""
        return {**held_out(self.asked.training), **self.asked.stores[name]}

    def store_request(self, name: str, seed: int, source: Any = None) -> SynthRequest:
        """What `guard.synth` is asked for, with shared models by their folders."""
        told = {"gallery": False, **self.store_arguments(name)}
        asked = synth_request(told, data=source, out=self.store(name, seed), seed=seed)
        shared = self._shared(asked.options, get_synthesiser(asked.method).Options, seed)
        return asked.model_copy(update={"options": {**asked.options, **shared}})

    def _shared(self, told: Mapping[str, Any], kind: type[Record], seed: int) -> dict[str, Any]:
        """Models that are trained first (a pair, a diffusion model) lie where all runs and stores of the seed find
        them: one for each way of training it."""
        found = {}
        for name, option in kind.model_fields.items():
            record = option.annotation
            if not (isinstance(record, type) and issubclass(record, SharedOptions)):
                continue
            given = told.get(name, {})
            given = {"model": given} if isinstance(given, str) else dict(given)
            if given.get("folder") is None and record(**given).is_ours:
                trained = {key: given[key] for key in sorted(given) if key == "model" or key in record.training}
                every = dict(self.asked.training)
                folder = self._kept(f"shared/{name}-", [trained, deciding(every)], [trained, every], f"-s{seed}")
                found[name] = {**given, "folder": str(folder)}
        return found


def named_weights(name: str) -> str:
    """What identifies published weights: a file or folder by its content, a hub id by its name."""
    return file_digest(Path(name)) if Path(name).is_file() else named_model(name)


def with_runs(value: Any, of_run: Callable[[str], str]) -> Any:
    """A nested value with something in the place of each ``run:NAME``."""
    if isinstance(value, Mapping):
        return {key: with_runs(part, of_run) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [with_runs(part, of_run) for part in value]
    return of_run(value.removeprefix(RUN)) if isinstance(value, str) and value.startswith(RUN) else value


def deciding(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without what only says how the machine does it."""
    return {key: value for key, value in arguments.items() if key not in IDLE}


def held_out(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of arguments of guard.train, what says which images are not trained on."""
    return {key: arguments[key] for key in ("calibration", "test") if arguments.get(key) is not None}


def plain(name: str) -> str:
    """A name as part of a path; a long one ends in its digest, for file systems allow 255 bytes."""
    text = re.sub(r"[^\w.+-]+", "-", name.replace(", ", "-")).strip("-") or "run"
    if len(text.encode()) <= LONGEST:
        return text
    return f"{text.encode()[:LONGEST].decode(errors='ignore')}-{digest(name)}"


def train_request(
    asked: BenchmarkFile, backbone: str, told: Mapping[str, Any], *, seed: int, data: Any = None, out: Any = None
) -> TrainRequest:
    """Arguments of `guard.train`: what is none of its own is an option of the method."""
    known = {key: value for key, value in told.items() if key in TrainRequest.model_fields and key != "options"}
    options = {key: value for key, value in told.items() if key not in known}
    if asked.epochs is not None:
        known.setdefault("epochs", asked.epochs)
    with TrainRequest.checked():
        return TrainRequest(
            data=data,
            backbone=backbone,
            seed=seed,
            alpha=asked.alpha,
            out=out,
            **known,
            options=options,
        )


def synth_request(told: Mapping[str, Any], **ours: Any) -> SynthRequest:
    """Arguments of `guard.synth`."""
    known = {key: value for key, value in told.items() if key in SynthRequest.model_fields and key != "options"}
    options = {key: value for key, value in told.items() if key not in known}
    with SynthRequest.checked():
        return SynthRequest(**{**known, **ours}, options=options)
