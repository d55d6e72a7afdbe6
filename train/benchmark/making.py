"""What is made before a training, counted from options: stores of outliers, embeddings, and models trained first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from guard.data import ImageData
from guard.record import Record

from ..backbones import automatic_backbone
from ..engine.epochs import epochs_showing
from ..generators.diffusion import DiffusionOptions
from ..generators.diffusion.base import TIMES
from ..generators.latent_pair.base import PairOptions
from ..losses.distillation import DistillationLoss
from ..losses.mutual_information import MutualInformationLoss
from ..losses.projected_energy import ProjectedEnergyLoss
from ..methods.base import Stage
from ..outliers.base import Changed, ImageSynthesiser, Synthesiser
from ..outliers.conditioning import encoder as encoding
from ..outliers.conditioning import invariants as invariance
from ..outliers.conditioning.boundary import BoundaryEmbeddingOptions
from ..outliers.conditioning.encoder import EncoderOptions
from ..outliers.conditioning.invariants import InvariantOptions
from ..outliers.conditioning.prompt_tuning import EmbedOptions
from ..outliers.features.teacher_outliers import TeacherBoundaryOptions
from ..outliers.resize import kernels
from ..outliers.store.drawing import Stored
from ..outliers.store.fill import MOST_BY_DEFAULT
from ..teacher import TeacherOptions
from .network_cost import backbone_forward, multiply_adds, teacher_cost
from .speeds import BACKWARD, DENOISING, INVARIANTS, NETWORKS, TUNING
from .task import Task

WIDTH, FLOAT = 768, 4  # of a token embedding of Stable Diffusion 1.x; bytes of a number
STEPS, GUIDANCE = 50, 7.5  # of Stable Diffusion, by default


@dataclass(frozen=True)
class Images:
    """What outliers are made of: images that are trained on, their classes and form."""

    count: int
    classes: int
    channels: int
    size: tuple[int, int]


def images_of(data: ImageData, count: int) -> Images:
    """Of `count` of the data's images."""
    p = data.preprocess
    return Images(count, len(data.class_names), p.channels, (p.height, p.width))


def made_first(options: Record, stages: Sequence[Stage], images: Images, default_epochs: int) -> Iterator[Task]:
    """What a method makes for its stages."""
    stores = [store for stage in stages for store in _stores(stage.synthesiser)]
    for store in stores:
        yield from filling(store.synthesiser, store.total or min(MOST_BY_DEFAULT, images.count), images)
    learned = [one for stage in stages for one in stage.regularisers]
    against = any(isinstance(one, MutualInformationLoss | ProjectedEnergyLoss) for one in learned)
    taught = against or any(isinstance(one, DistillationLoss) for one in learned)
    if taught and isinstance(teacher := getattr(options, "teacher", None), TeacherOptions) and not teacher.is_guard:
        yield _teacher(teacher, images, default_epochs)
    latents, diffusion = getattr(options, "num_latents", None), getattr(options, "diffusion", None)
    if against and latents is not None and isinstance(diffusion, DiffusionOptions):
        if isinstance(boundary := getattr(options, "boundary", None), TeacherBoundaryOptions):
            yield _boundary(boundary.pick * boundary.keep * boundary.repeats, images)
        yield from _decoding(diffusion, latents, "latents", images, 0.0, "")


def _stores(synthesiser: Synthesiser | None) -> Iterator[Stored]:
    if isinstance(synthesiser, Stored):
        yield synthesiser
    if isinstance(synthesiser, Changed):
        yield from _stores(synthesiser.wrapped)
    for part in getattr(synthesiser, "parts", ()):
        yield from _stores(part)


def filling(synthesiser: ImageSynthesiser, total: int, images: Images) -> Iterator[Task]:
    """A store of `total` images of a synthesiser, and what it needs first."""
    o = synthesiser.options
    height, width = images.size
    copies = len(kernels(o.resize_kernel)) if hasattr(o, "resize_kernel") else 1
    size = float(copies * total * height * width * images.channels)
    if isinstance(getattr(o, "encoder", None), EncoderOptions) and _reads(o, "encoder"):
        yield _encoder(o.encoder, images)
    if isinstance(getattr(o, "boundary", None), BoundaryEmbeddingOptions) and _reads(o, "boundary"):
        yield _boundary(_drawn(o.boundary, total, images), images)
    if isinstance(getattr(o, "embed", None), EmbedOptions) and _reads(o, "embed"):
        yield _embedding(o.embed, o.diffusion, images)
    if isinstance(getattr(o, "invariants", None), InvariantOptions) and o.invariants.kind == "cvpn":
        yield _invariants(o.invariants, o.embed.per_class, images)
    if isinstance(diffusion := getattr(o, "diffusion", None), DiffusionOptions):
        yield from _decoding(diffusion, total, "images", images, size, synthesiser.name)
        return
    if isinstance(pair := getattr(o, "pair", None), PairOptions):
        yield from _pair(pair)
    yield Task("make", f"outliers of {synthesiser.name}", f"{total:,} images", None, NETWORKS, size, synthesiser.name)


def _reads(options: Record, name: str) -> bool:
    """Whether the option is read with the values of the others, as its field says."""
    from guard.record import read_conditions, unread_conditions

    field = type(options).model_fields[name]
    read = all(getattr(options, k) in (v if isinstance(v, tuple) else (v,)) for k, v in read_conditions(field).items())
    unread = any(
        getattr(options, k) in (v if isinstance(v, tuple) else (v,)) for k, v in unread_conditions(field).items()
    )
    return read and not unread


def _teacher(teacher: TeacherOptions, images: Images, default_epochs: int) -> Task:
    epochs = teacher.epochs or default_epochs
    forward = teacher_cost(teacher, images.classes, images.channels, images.size).forward
    return Task(
        "make",
        f"teacher {teacher.model}",
        f"{epochs} epochs of {images.count:,} images",
        epochs * images.count * BACKWARD * forward,
        NETWORKS,
    )


def _encoder(o: EncoderOptions, images: Images) -> Task:
    name = o.backbone or automatic_backbone(max(images.size))
    epochs = o.epochs or min(encoding.MOST_EPOCHS, epochs_showing(encoding.SHOWN, images.count))
    work = epochs * images.count * BACKWARD * backbone_forward(name, images.channels, images.size)
    return Task("make", f"encoder {name}", f"{epochs} epochs of {images.count:,} images", work, NETWORKS)


def _drawn(o: BoundaryEmbeddingOptions, total: int, images: Images) -> int:
    each = max(-(-total // images.classes), images.count // images.classes)
    repeats = o.repeats or min(100, -(-each // (o.pick * o.keep)))
    return o.pick * o.keep * repeats


def _boundary(each: int, images: Images) -> Task:
    size = float(each * images.classes * WIDTH * FLOAT)
    return Task("make", "boundary samples", f"{each:,} for each of {images.classes} classes", 0.0, NETWORKS, size)


def _embedding(o: EmbedOptions, diffusion: DiffusionOptions, images: Images) -> Task:
    count = min(images.count, (o.per_class or images.count) * images.classes)
    calls = count * o.iterations * o.pairs
    amount = f"{count:,} images, {o.iterations} steps of {o.pairs} noises: {calls:,} calls"
    known = diffusion.model == "stable-diffusion"
    return Task("make", "embeddings of images", amount, calls if known else None, TUNING, float(count * WIDTH * FLOAT))


def _invariants(o: InvariantOptions, per_class: int | None, images: Images) -> Task:
    count = min(images.count, (per_class or images.count) * images.classes)
    epochs = o.epochs or min(invariance.MOST_EPOCHS, epochs_showing(invariance.SHOWN, count))
    amount = f"{epochs} epochs of {count:,} embeddings"
    return Task("make", "volume-preserving network", amount, float(epochs * count), INVARIANTS)


def _decoding(o: DiffusionOptions, total: int, what: str, images: Images, size: float, store: str) -> Iterator[Task]:
    stable = o.model == "stable-diffusion"
    if stable:
        steps, guided = o.sampling_steps or STEPS, GUIDANCE if o.guidance is None else o.guidance
        calls = total * steps * (2 if guided > 1 else 1)
        amount = f"{total:,} {what} of {steps} steps: {calls:,} calls of Stable Diffusion"
        yield Task("make", _named(what, store), amount, float(calls), DENOISING, size, store)
        return
    if not o.is_ours:
        yield Task("make", _named(what, store), f"{total:,} {what} of {o.model}", None, NETWORKS, size, store)
        return
    from ..generators.diffusion.model import GUIDANCE as OURS_GUIDANCE
    from ..generators.diffusion.model import STEPS as OURS_STEPS
    from ..generators.diffusion.training import epochs_for

    forward = _denoiser_forward(o, images)
    epochs = o.epochs or epochs_for(images.count)
    yield Task(
        "make",
        "built-in diffusion model",
        f"{epochs} epochs of {images.count:,} images",
        epochs * images.count * BACKWARD * forward,
        NETWORKS,
    )
    steps = o.sampling_steps or (TIMES if o.sampler == "ddpm" else OURS_STEPS)
    guided = OURS_GUIDANCE if o.guidance is None else o.guidance
    calls = total * steps * (2 if guided > 1 else 1)
    amount = f"{total:,} {what} of {steps} steps: {calls:,} calls of the built-in model"
    yield Task("make", _named(what, store), amount, calls * forward, NETWORKS, size, store)


def _named(what: str, store: str) -> str:
    return f"outliers of {store}" if store else what


def _denoiser_forward(o: DiffusionOptions, images: Images) -> float:
    """Multiply-adds of one call of the built-in model."""
    from ..generators.diffusion.model import LARGEST_IN_PIXELS, BuiltInDiffusion, ModelCard

    height, width = images.size
    with torch.device("meta"):
        card = ModelCard(
            height=height,
            width=width,
            channels=images.channels,
            class_names=[f"class {i}" for i in range(images.classes)],
            conditioning=o.conditioning,
            prediction=o.prediction,
            loss_weights=o.loss_weights,
            diffusion_width=o.width,
            latent=max(height, width) > LARGEST_IN_PIXELS if o.latent is None else o.latent,
            patch=o.patch,
        )
        model = BuiltInDiffusion(card)
        z = torch.zeros(1, *model.latent_shape)
        t, e = torch.zeros(1, dtype=torch.int64), torch.zeros(1, model.width)
        return multiply_adds(model.denoiser, z, t, e)


def _pair(o: PairOptions) -> Iterator[Task]:
    if o.is_ours:
        amount = "as many epochs as show 150,000 images" if o.epochs is None else f"{o.epochs} epochs"
        yield Task("make", "encoder and generator", amount, None, NETWORKS)
