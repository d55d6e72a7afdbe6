"""What a benchmark's file says -> its plan; whatever can be refused without training is refused here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from guard.benchmark_file import BenchmarkFile
from guard.data.held_out import is_amount
from guard.errors import ConfigError, UnknownNameError
from guard.geometry import Geometry, size_of
from guard.graph.outputs import FeatureClassifier
from guard.record import parse_options
from guard.requests import SynthRequest, TrainRequest

from ..cache.keyed import digest
from ..classifiers.fresh import build_classifier
from ..outliers import matching
from ..outliers.base import get_synthesiser
from ..runs.resolve import asked_backbone, asked_head, asked_method, asked_score, check_before_loading
from . import asked as scores
from .draws import check_draws
from .file import located
from .plan import RUN, STORE, WEIGHTS, Plan, Run, held_out, plain, synth_request, train_request, with_runs
from .sets import Sets

RESERVED = {  # arguments of guard.train that the benchmark gives, and the key of the file that says them
    "data": "data",
    "backbone": "backbones",
    "seed": "seeds",
    "ood_val": "ood",
    "out": "out",
    "resume": "out",
    "alpha": "alpha",
}
IMAGES = {*Geometry.model_fields, "in_chans"}  # arguments that say how files become the images that all share


def planned(asked: BenchmarkFile, folder: Path, sets: Sets) -> Plan:
    """The plan.

    Raises:
        ConfigError, DataError, CalibrationError, ModelError: whatever a training or a score would refuse.
    """
    plan = laid_out(asked, folder, sets)
    for run in plan.runs:
        plan.identity(run)  # opens the outliers
    return plan


def laid_out(asked: BenchmarkFile, folder: Path, sets: Sets) -> Plan:
    """The plan, without a look at images of outliers; raises as `planned`."""
    maker = _Maker(asked, folder, sets)
    runs = [run for backbone in asked.backbones for seed in asked.seeds for run in maker.runs(backbone, seed)]
    places = [run.place for run in runs]
    for run in runs:
        if places.count(run.place) > 1:
            raise ConfigError(f"two methods of the benchmark would lie in {run.place}; rename {run.name!r}")
    check_draws(asked, sets, runs)
    return Plan(asked, folder, sets, tuple(runs))


def check_arguments(asked: BenchmarkFile) -> None:
    """Raises: ConfigError: an argument of guard.train that a key of the file stands for, or a name that is refused."""
    _check_names("method", asked.methods)
    _check_names("store", asked.stores)
    _check_names("OOD set", [*asked.ood.near, *asked.ood.far, *asked.ood.other], taken=("near", "far"))
    for name, told in {"": asked.training, **asked.methods}.items():
        for key in told:
            if key in RESERVED:
                where = f"method {name!r}" if name else "the key 'training'"
                raise ConfigError(f"{where} of the benchmark: {key} is said by the key {RESERVED[key]!r}")
    _check_names("labelled set", asked.data.shifted)
    _check_shifted(asked)
    for what, parts in (("method", asked.methods), ("store", asked.stores)):
        for name, told in parts.items():
            for key in IMAGES.intersection(told if isinstance(told, Mapping) else ()):
                raise ConfigError(
                    f"{what} {name!r} of the benchmark: {key} is said under training:, for all see the same images"
                )


def _check_shifted(asked: BenchmarkFile) -> None:
    """Raises: ConfigError: labelled sets of classes that are left out of some trainings."""
    if asked.data.shifted and asked.data.leave_out:
        raise ConfigError("data.shifted is not measured with data.leave_out; drop one of them")


def _check_names(what: str, names: Iterable[str], taken: tuple[str, ...] = ()) -> None:
    """Raises: ConfigError: a name that is empty, has spaces around it or line breaks in it, or means something else."""
    for name in names:
        if name.strip() != name or not name.isprintable() or not name:
            raise ConfigError(
                f"{what} {name!r} of the benchmark: a name is not empty, without line breaks and spaces around it"
            )
        if name in taken:
            raise ConfigError(f"{what} {name!r} of the benchmark: the mean of all such sets is called that; rename it")


class _Maker:
    """Makes the runs of a backbone and a seed; networks, which show what scores can read, are built once."""

    def __init__(self, asked: BenchmarkFile, folder: Path, sets: Sets) -> None:
        self.asked, self.folder, self.sets = asked, folder, sets
        self._networks: dict[str, FeatureClassifier] = {}
        self._scores = scores.asked_scores(asked.scores)
        for name, told in asked.stores.items():
            _check_store(name, told)
            if alike := [other for other in asked.stores if other != name and plain(other) == plain(name)]:
                raise ConfigError(f"two stores of the benchmark would lie in {plain(name)}; rename {alike[0]!r}")
        for told in (asked.training, *asked.methods.values()):
            _check_held_out(told, sets)
        if asked.baseline is not None and asked.baseline not in asked.methods:
            raise UnknownNameError("method of the benchmark", asked.baseline, asked.methods, "baseline: names one.")

    def runs(self, backbone: str, seed: int) -> Iterator[Run]:
        made: dict[str, list[Run]] = {}
        for name in self._in_order():
            told = self.asked.methods[name]
            heads = self.asked.heads if "head" not in told and self.asked.heads else ("",)
            made[name] = [self._run(backbone, name, head, seed, made) for head in heads]
            yield from made[name]

    def _in_order(self) -> list[str]:
        """The methods, each after those that it starts from."""
        done: list[str] = []

        def visit(name: str, above: tuple[str, ...]) -> None:
            if name in above:
                raise ConfigError(f"methods of the benchmark start from each other: {' from '.join((*above, name))}")
            for other in self._referred(name):
                visit(other, (*above, name))
            if name not in done:
                done.append(name)

        for name in self.asked.only or self.asked.methods:
            if name not in self.asked.methods:
                raise UnknownNameError("method of the benchmark", name, self.asked.methods, "only: names some of them.")
            visit(name, ())
        return done

    def _referred(self, name: str) -> list[str]:
        """The other methods that the arguments of one name."""
        told = {**self.asked.training, **self.asked.methods[name]}
        found = [text.removeprefix(RUN) for text in _texts(told) if text.startswith(RUN)]
        if isinstance(start := told.get("init"), str) and not start.startswith(RUN):
            found.append(start)
        for other in found:
            if other not in self.asked.methods:
                hint = "init: and run: name one of them."
                raise UnknownNameError("method of the benchmark", other, self.asked.methods, hint)
        return found

    def _run(self, backbone: str, name: str, head: str, seed: int, made: Mapping[str, list[Run]]) -> Run:
        told = dict(self.asked.methods[name])
        own = scores.scores_of_method(told.pop("scores"), name) if "scores" in told else ()
        told.setdefault("method", name)
        if isinstance(told.get("init"), str):
            told["init"] = told["init"].removeprefix(RUN)
        with_head = {"head": head} if head else {}
        every = {**self.asked.training, **told, **with_head}
        for store in (t.removeprefix(STORE) for t in _texts(every) if t.startswith(STORE)):
            self._check_use(store, name, every)
        shown = {key: with_runs(value, lambda _: str(self.asked.out)) for key, value in every.items()}
        if WEIGHTS in shown:
            shown[WEIGHTS] = located(shown[WEIGHTS], self.folder)
        request = train_request(self.asked, backbone, shown, seed=seed)
        method = asked_method(request)
        score = asked_score(request, method)
        check_before_loading(request, method, score)
        trained_head = asked_head(request, method, score)
        needs = {other: _matching(made[other], trained_head, name) for other in self._referred(name)}
        wanted = own or self._scores
        found = scores.resolved(wanted, request, method, self._network(request, trained_head))
        return Run(backbone, name, head, seed, trained_head, told, found, needs, self.sets.left_out)

    def _check_use(self, store: str, name: str, told: Mapping[str, Any]) -> None:
        """Raises: UnknownNameError, ConfigError: no such store, or one that is made of images held out by the run."""
        if store not in self.asked.stores:
            hint = "" if self.asked.stores else "There are none; see the key stores."
            raise UnknownNameError("store of the benchmark", store, self.asked.stores, hint or "See the key stores.")
        ours, theirs = held_out(told), held_out({**self.asked.training, **self.asked.stores[store]})
        if ours != theirs:
            raise ConfigError(
                f"method {name!r} of the benchmark holds out {ours or 'the default'}, store {store!r} "
                f"{theirs or 'the default'}: its outliers would carry held-out images into training; "
                "say calibration and test under training: alone"
            )

    def _network(self, request: TrainRequest, head: str) -> FeatureClassifier:
        """An untrained network of that kind."""
        p = self.sets.source.preprocess
        backbone = asked_backbone(request, max(p.height, p.width))
        key = digest([backbone, head, dict(request.head_options)])
        if key not in self._networks:
            self._networks[key] = build_classifier(
                backbone,
                head,
                len(self.sets.source.class_names),
                in_chans=p.channels,
                image_size=size_of(p),
                head_options=request.head_options,
            )
        return self._networks[key]


def _matching(runs: list[Run], head: str, name: str) -> Run:
    """The one of another method's runs that a network with this head can start from."""
    for wanted in (head, "linear" if head == "c_plus_1" else head):
        for run in runs:
            if run.trained_head == wanted:
                return run
    heads = ", ".join(run.trained_head for run in runs)
    raise ConfigError(
        f"method {name!r} of the benchmark trains head={head!r} and would start from {runs[0].name!r}, which has "
        f"{heads}; list {head!r} under heads:, or name another init:"
    )


def _check_held_out(told: Mapping[str, Any], sets: Sets) -> None:
    """Raises: ConfigError: held-out images that the scores could not be measured on."""
    for key in ("calibration", "test"):
        if not is_amount(told.get(key)):
            raise ConfigError(
                f"{key} of the benchmark's trainings is a count or a share of the images, got {told[key]!r}; "
                "test images of their own are data: {test: ...}"
            )
    if told.get("test") == 0 and sets.test is None:
        raise ConfigError("test: 0 holds out no images to measure on; give data: {test: ...}, or hold some out")


def _check_store(name: str, told: Any) -> None:
    """Raises: ConfigError: arguments that guard.synth does not take."""
    if not isinstance(told, Mapping) or "method" not in told:
        raise ConfigError(f"store {name!r} of the benchmark needs a method, like {{method: phase_mix, count: 20000}}")
    for key in ("data", "out", "seed"):
        if key in told:
            raise ConfigError(f"store {name!r} of the benchmark: {key} is said by the benchmark, drop it")
    request = synth_request(told, data=None, out=Path(), seed=0)
    kind = get_synthesiser(request.method)
    owner = f"store {name!r} of the benchmark"
    parse_options(kind.Options, dict(request.options), owner, also=SynthRequest.model_fields)
    matching.checked(request.match)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a nested value, keys of mappings included."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(key)
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value
