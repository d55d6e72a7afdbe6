"""`guard.train`: data, network, stages, score."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guard.artefact.places import check_room
from guard.data import ImageData, load
from guard.data.held_out import Draw, Splits
from guard.data.labels import printable
from guard.data.noise import is_noise, noise_images
from guard.detector import Guard
from guard.errors import ConfigError, GuardError
from guard.graph.module import GuardModule
from guard.graph.outputs import Outputs
from guard.manifest import Normalisation
from guard.requests import TrainRequest
from guard.runtimes.torch_module import resolve_device
from guard.scores import Score

from ..augmentations.given import mixing_set
from ..classifiers.fresh import fresh_classifier
from ..classifiers.input import example_batch
from ..classifiers.rebuild import misfit
from ..engine.checkpoint import NAME as CHECKPOINT
from ..engine.distributed import Processes, first_speaks, processes
from ..engine.loader import Feed
from ..engine.precision import check_precision, computing_in
from ..engine.stages import train_stages
from ..engine.threads import paced
from ..features.extract import fit_score
from ..methods.base import Method, Stage
from ..outliers.base import OutlierMix
from ..outliers.sources import looking_sources, mix_fingerprint, outlier_mix
from .assemble import Made, assembled, check_models_apart, run_folder
from .default_score import say, say_where_no_mirror_was, where_few
from .fine_tuning import chooses_epoch, divided, tuned_stages
from .read_arguments import NotingContext, check_read
from .rehearse import rehearse
from .request import TrainConfig
from .resolve import asked_method, asked_score, check_before_loading, named_score, resolved
from .start import as_there, order_of, preprocess_of, start_of

WRITTEN_COPIES = (
    10  # of the weights: two checkpoints with momentum, average and best epoch, while one replaces the other; the guard
)


def train(request: TrainRequest, shared: Collection[str] = ()) -> Guard:
    """See `guard.train`.

    Args:
        shared: arguments that many trainings have alike, and that this one may leave unread.
    """
    us = processes()  # before the device is used: a launcher gives each process its own
    if us.world > 1 and request.out is None:
        raise ConfigError(f"{us.world} processes train one guard in a folder that all of them see; name it with out=")
    device = resolve_device(request.device)
    with computing_in(request.precision), paced(request.threads, device), first_speaks():
        return _trained(request, us, device, shared)


def _trained(request: TrainRequest, us: Processes, device: torch.device, shared: Collection[str]) -> Guard:
    method = asked_method(request)
    start = start_of(request)
    if start is not None:
        request = as_there(request, method, start)
    score, asked = asked_score(request, method), named_score(request, method)
    say(asked)
    check_precision(request.precision, device)
    check_before_loading(request, method, score)
    check_models_apart(method.options, request.data)
    out = run_folder(request.out, request.data, resume=request.resume)
    source = load(
        request.data,
        preprocess=preprocess_of(request, start),
        image_size=request.image_size,
        channels=request.in_chans,
        geometry=request,
        workers=request.workers,
    )
    draw = Draw(request.seed, request.calibration, request.test)
    if (earlier := Draw.of_guard(start, source)) is not None:  # others would be images that the run has learned
        draw = draw.kept(earlier)
    splits = Splits.draw(source, draw, alpha=request.alpha, labelled_calibration=request.temperature_scaling)
    splits = splits.in_order(None if start is None else order_of(request, source.class_names, start))
    score = where_few(score, asked, len(splits.calibration))
    ood_val = ood_sets(request.ood_val, splits, request.workers)
    outliers = outlier_mix(request.outliers, source.preprocess, request.workers, splits.train)
    pictures = mixing_set(request.mixing_set, source.preprocess, request.seed, request.workers)
    mixed_in = None if pictures is None else pictures.fingerprint
    config = resolved(request, method, score, splits, mix_fingerprint(outliers), mixed_in)
    say_where_no_mirror_was(score, config.augment)
    module, normalisation = fresh_module(config, splits.train, score, device)
    if out is not None and (out / CHECKPOINT).exists():  # begun by a version, maybe, that took what no stage reads
        shared = TrainRequest.model_fields
    learned, validation, stages = _parts(
        config, method, module, splits.train, outliers, lambda *made: check_read(request, shared, *made)
    )
    rehearse(module, splits.train)
    if out is not None:
        check_room(out, WRITTEN_COPIES * sum(tensor.nbytes for tensor in module.state_dict().values()))
    train_stages(
        module,
        Feed(learned),
        stages,
        config,
        device=device,
        out=out,
        resume=request.resume,
        pictures=pictures,
        validation=validation,
    )
    made = Made(
        name=printable(out.resolve().name) if out else f"{method.name}-{config.backbone}",
        normalisation=normalisation,
        method=method.name,
        method_options=method.options.model_dump(),
        backbone=config.backbone,
        head=config.head,
        head_options=config.head_options,
        seed=config.seed,
        before=start,
    )
    with us.main_process_first():  # score, threshold and metrics once, by one process; the others read what it wrote
        if out is not None and not us.is_first:
            return Guard.from_pretrained(out, device=str(device))
        _finish_score(module, splits.train)
        for regulariser in (r for stage in stages for r in stage.regularisers):
            regulariser.examine(module, splits.calibration)
        return assembled(module, splits, made, request, device=device, out=out, ood_val=ood_val)


def _parts(
    config: TrainConfig,
    method: Method,
    module: GuardModule,
    images: ImageData,
    outliers: OutlierMix | None,
    check: Callable[[Method, list[Stage], Collection[str]], None],
) -> tuple[ImageData, ImageData | None, list[Stage]]:
    """The images that are learned from, those that choose the epoch where a stage lets them, and the stages.

    Args:
        check: sees the method, its stages, and what the method looked at to make them.
    """

    def stages(of: ImageData) -> list[Stage]:
        context = _context(config, module, of, outliers)
        made = method.stages(context)
        check(method, made, context.looked_at)
        return tuned_stages(made, config)

    made = stages(images)
    _check_taught(config, made[0], outliers)
    if not config.validation or not chooses_epoch(made):
        return images, None, made
    learned, validation = divided(images, config.validation, config.seed)
    return learned, validation, stages(learned)


def _check_taught(config: TrainConfig, first: Stage, outliers: OutlierMix | None) -> None:
    """Raises: ConfigError: outliers of what a classifier looks at, before there is one that has learned."""
    looking = [] if outliers is None or first.synthesiser is None else looking_sources(outliers)
    if looking and not config.init and not config.pretrained:
        raise ConfigError(
            f"outliers={looking[0]!r} shows what a trained classifier looks at, and method {config.method!r} begins "
            "with none; give init= a run, or a store that guard synth made with one"
        )


def ood_sets(given: Any, splits: Splits, workers: int | None) -> dict[str, ImageData]:
    """The OOD sets to report on, opened before training so that a wrong path costs nothing.

    Raises:
        ConfigError: there are no test images to compare them with.
    """
    if given is None:
        return {}
    if splits.test is None:
        raise ConfigError("ood_val is compared with test images, and test=0 holds none out; give test= some")
    preprocess = splits.train.preprocess
    named = given if isinstance(given, dict) else {"ood_val": given}
    return {
        printable(str(name)): noise_images(images, preprocess, name=name)
        if is_noise(images)
        else load(images, preprocess=preprocess, labelled=False, workers=workers)
        for name, images in named.items()
    }


def fresh_module(
    config: TrainConfig, data: ImageData, score: Score, device: torch.device
) -> tuple[GuardModule, Normalisation]:
    """The network at the start of training: of random or published weights, or those of the run in ``init=``."""
    torch.manual_seed(config.seed)
    classifier, normalisation = fresh_classifier(config, data)
    if config.init:
        normalisation = _start_from(config.init, classifier, config, data)
    classifier = classifier.to(memory_format=torch.channels_last)
    return GuardModule(classifier, score, normalisation).to(device), normalisation


def _start_from(init: str, classifier: nn.Module, config: TrainConfig, data: ImageData) -> Normalisation:
    """Give `classifier` the weights of a trained run; the normalisation that goes with them.

    Raises:
        ConfigError: another backbone or head, or other classes or channels.
    """
    trained = Guard.from_pretrained(init, device="cpu")
    m = trained.manifest
    try:
        state = trained.module.classifier.state_dict()
        if (m.head, config.head) == ("linear", "c_plus_1"):
            state = _with_extra_class(state, classifier)
        elif m.head != config.head:
            raise RuntimeError("the heads differ")  # some have weights of the same shape
        classifier.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"init={init!r} is {m.backbone} with a {m.head} head, {len(m.class_names)} classes and "
            f"{m.preprocess.channels} channels, which does not fit {config.backbone} with a {config.head} head, "
            f"{len(data.class_names)} classes and {config.in_chans} channels ({misfit(error)})"
        ) from None
    return m.normalisation


def _with_extra_class(state: dict[str, Tensor], classifier: nn.Module) -> dict[str, Tensor]:
    """The weights of a classifier with a linear head, and the untrained last class of one with a C + 1 head."""
    fresh = classifier.state_dict()
    extra = {name: torch.cat([state[name], fresh[name][-1:]]) for name in ("head.linear.weight", "head.linear.bias")}
    return {**state, **extra}


def _context(config: TrainConfig, module: GuardModule, data: ImageData, outliers: OutlierMix | None) -> NotingContext:
    labels, device = data.labels, module.scale.device
    assert labels is not None  # guard.train loads labelled data only
    counts = np.bincount(labels, minlength=len(data.class_names))
    shown = _shown(config, module, data, device)
    return NotingContext(
        num_classes=len(data.class_names),
        num_features=shown.features.shape[1],
        map_shape=tuple(shown.feature_map.shape[1:]) if shown.feature_map is not None else None,
        class_counts=tuple(int(c) for c in counts),
        epochs=config.epochs,
        lr=config.lr,
        batch_size=min(config.batch_size, len(data)),  # what a batch holds, which per-image ratios are of
        seed=config.seed,
        device=device,
        outliers=outliers,
        initialised=config.init is not None,
        score=module.score,
        pretrained=bool(config.pretrained),
    )


def _shown(config: TrainConfig, module: GuardModule, data: ImageData, device: torch.device) -> Outputs:
    """What the network shows of a batch of such images, before it is trained.

    Raises:
        ConfigError: it takes no images of this size (a vision transformer that is not given square ones, say).
    """
    p = data.preprocess
    try:
        with torch.inference_mode():
            return module.eval().outputs(example_batch(p, device))
    except GuardError:  # which says more: of a score that needs square images, say
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:  # timm's networks, about a shape
        raise ConfigError(
            f"backbone={config.backbone!r} takes no images of {p.height} x {p.width} pixels ({str(error)[:100]}); "
            "name another backbone, or a size that it takes with image_size="
        ) from error


def _finish_score(module: GuardModule, data: ImageData) -> None:
    """Fit what the score needs from the trained classifier (trained scores have their state already)."""
    score = module.score
    module.to(memory_format=torch.contiguous_format)
    if score.needs_fit:
        fit_score(module, data)
    elif not score.trained_by:
        last = module.classifier.last_layer()
        score.begin(module.classifier.num_features, len(data.class_names), last)
    score.to(module.scale.device)
