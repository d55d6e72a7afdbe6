"""FodFoM. Source: Chen, Deng, Gan, Zheng & Wang, ACM MM 2024.

    outliers, half and half: decoded from beyond the edge of each class       train.outliers.conditioning.edge
                             in-distribution images with the object blurred   train.outliers.images.blurred_object
    f(x) in the diffusion model's conditioning space;   e_k = f + k step (f - mean of the class), f on the class's edge
    L = CE over C + 1 classes, all outliers the last one, + contrast * SupCon over the same classes, temperature 0.1
    score: the energy over the first C logits

As published, f is the text feature of a caption of x (``captioner=``, an image-to-text model of yours; Stable Diffusion
alone has a text encoder). Without one there are class names only, one embedding per class and nothing to be the edge
of. So by default f(x) is an image feature in the same conditioning space, of unit length, from the encoder that
Dream-OOD trains (`train.outliers.conditioning.encoder`), and e_k is as long as the class's own embedding.

Both kinds go into stores (``out/outliers/fodfom``, ``out/outliers/blurred_object``); ``outliers=`` names images or a
store to take in their place.

Departures, each on purpose. (1) The published pipeline takes four foundation models. Here the diffusion model is the
built-in one or Stable Diffusion; image features stand in for captions, and the box around a class activation map for
the detector's (``blurred={"detector": ...}``). That map needs a trained classifier, so without a detector a plain one
is trained first (or comes from ``init=``) and tuned on the outliers; with one, training starts from scratch, as
published. (2) SupCon compares one view of each image; the paper's code two, of stronger augmentation. (3) Outliers are
as many as in-distribution images in each batch; published, the three sets are shuffled together. Published schedule:
200 epochs of 512 images, lr 0.05, divided by 10 after 100 and 150.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.errors import ConfigError
from guard.heads import unit
from guard.record import changed, option, shown

from ..engine.distributed import Processes
from ..generators.diffusion import beside_model, make_diffusion
from ..losses.k_plus_1 import KPlusOneLoss
from ..losses.supcon import SupConLoss, projector
from ..outliers.base import PrepareContext, Synthesiser, register_synthesiser
from ..outliers.conditioning.captions import PROMPT, caption_features, captioned
from ..outliers.conditioning.edge import Beyond, EdgeOptions, beyond_edges
from ..outliers.conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..outliers.conditioning.table import Embeddings
from ..outliers.decoded import PER_DECODING, DecodedEmbeddings, DecodedImageOptions
from ..outliers.images.blurred_object import BlurredObjectOptions
from ..outliers.sources import Mixture, looking_sources
from ..outliers.store.drawing import Stored
from .base import Method, MethodContext, Stage, register
from .decoded import InlierOptions, shown_inliers
from .from_store import PER_DRAW, filled_store, given_or

KINDS = {"blurred": "blurred_object", "decoded": "fodfom"}  # minutes before hours: what is wrong is said sooner


class FodFoMImageOptions(DecodedImageOptions):
    """Options of the decoded images."""

    captioner: str | None = option(
        None,
        "Folder or hub id of an image-to-text model of transformers (BLIP, GIT), whose captions give the features in "
        "place of an encoder; for Stable Diffusion.",
    )
    encoder: EncoderOptions = option(EncoderOptions(), "The image encoder.", read_if={"captioner": None})
    edge: EdgeOptions = option(EdgeOptions(), "Which features are the edge of a class, and how far beyond it.")

    @model_validator(mode="after")
    def _reads_captions(self) -> Self:
        if self.captioner is not None and self.diffusion.model == "built-in":
            raise ConfigError(
                f"captioner={self.captioner!r} needs a text encoder, and diffusion.model='built-in' has none; give "
                "diffusion.model='stable-diffusion', or drop it"
            )
        return self


class FodFoMOptions(InlierOptions, FodFoMImageOptions):
    """Options of the images and of their use."""

    kinds: Literal["both", "decoded", "blurred"] = option(
        "both", "Which outliers; the paper compares all three.", common=True
    )
    blurred: BlurredObjectOptions = option(
        BlurredObjectOptions(),
        "Where the object is that is blurred, and how.",
        read_if={"kinds": ("both", "blurred")},
    )
    store_size: int | None = option(
        None, "Images to generate of each kind; default one per training image, at most 50,000.", ge=1, common=True
    )
    weight: float = option(1.0, "Weight of the outliers' cross-entropy.", ge=0)
    contrast: float = option(1.0, "Weight of SupCon.", ge=0)
    temperature: float = option(0.1, "Temperature of SupCon.", gt=0, unread_if={"contrast": 0.0})
    projection: int = option(
        128,
        "Width in which SupCon compares, behind a learned projector; 0: the features themselves.",
        ge=0,
        unread_if={"contrast": 0.0},
    )
    tune_epochs: int = option(10, "Epochs of the stage with outliers, where a plain classifier comes first.", ge=1)
    tune_lr: float = option(0.01, "Peak learning rate of that stage.", gt=0)

    @model_validator(mode="after")
    def _of_the_kinds_that_are_made(self) -> Self:
        decodes = {*FodFoMImageOptions.model_fields, "decoded_id"}
        unread = [name for name in changed(self) if self.kinds == "blurred" and name in decodes]
        if unread:
            name = unread[0]
            raise ConfigError(
                f"{name}={shown(getattr(self, name))} is not read with kinds='blurred'; drop it, or give kinds='both' "
                "or 'decoded'"
            )
        return self


@register_synthesiser
class FodFoMImages(DecodedEmbeddings):
    """Images decoded from beyond the edge of each class in a diffusion model's conditioning space (FodFoM)."""

    name: ClassVar[str] = "fodfom"
    source: ClassVar[str] = "FodFoM, Chen et al., ACM MM 2024"
    Options: ClassVar = FodFoMImageOptions

    def prepare_together(self, context: PrepareContext, us: Processes) -> None:
        o: FodFoMImageOptions = self.options
        if o.captioner is not None:
            diffusion = make_diffusion(context, o.diffusion)
            caption_features(beside_model(context, o.diffusion), diffusion, o.diffusion, o.captioner, us)
        else:
            super().prepare_together(context, us)

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        o: FodFoMImageOptions = self.options
        if o.captioner is not None:
            captions = caption_features(context, self._model.get(), o.diffusion, o.captioner)
            return self._embeddings(beyond_edges(*captions, self.num_classes, o.edge))
        encoder = trained_encoder(context, anchors, o.encoder)
        features = training_features(context, encoder, o.encoder)
        points = beyond_edges(unit(features.data), features.labels, self.num_classes, o.edge)
        lengths = torch.linalg.vector_norm(anchors, dim=-1)[points.classes, None]
        return self._embeddings(points._replace(data=lengths * unit(points.data)))

    def _embeddings(self, points: Beyond) -> Embeddings:
        return Embeddings(points.data, points.classes, points.classes[:, None])

    def images(self, drawn: Embeddings, generator: torch.Generator) -> Tensor:
        if self.options.captioner is None:
            return super().images(drawn, generator)
        return captioned(self._model.get(), self.options.diffusion).sample_text(drawn.data, PROMPT, generator)

    def origin(self) -> str:
        return "decoded from beyond the edge of a class"


@register
class FodFoM(Method):
    """A class of their own for decoded edges of the classes and for blurred objects (Chen et al., ACM MM 2024)."""

    name = "fodfom"
    Options = FodFoMOptions
    head = "c_plus_1"
    heads: ClassVar[tuple[str, ...]] = ("c_plus_1",)
    wants_outliers = "optional"
    makers: ClassVar[tuple[str, ...]] = ("fodfom",)
    own_outliers: ClassVar[frozenset[str]] = frozenset({"store_size", "kinds", "blurred", "decoded_id"})

    def stages(self, context: MethodContext) -> list[Stage]:
        o: FodFoMOptions = self.options
        project = projector(context.num_features, o.projection) if o.projection else None
        learned = (
            KPlusOneLoss(o.weight),
            SupConLoss(o.contrast, o.temperature, outlier_class=True, project=project),
        )
        outliers, shown = self.outliers(context), shown_inliers(self.name, o, o.store_size)
        if not context.initialised and self.needs_no_classifier(context):
            if unread := [name for name in ("tune_epochs", "tune_lr") if name in changed(o)]:
                raise ConfigError(
                    f"method 'fodfom' does not read {unread[0]}={getattr(o, unread[0])} where its outliers need no "
                    "classifier, for then no other stage comes first; give epochs= and lr=, or init="
                )
            return [Stage("classifier", context.epochs, context.lr, outliers, learned, **shown)]
        return context.after_classifier(Stage("tuning", o.tune_epochs, o.tune_lr, outliers, learned, **shown))

    def needs_no_classifier(self, context: MethodContext) -> bool:
        """Whether the outliers can be made before anything is trained."""
        o: FodFoMOptions = self.options
        if context.outliers:
            return not looking_sources(context.outliers)
        return o.kinds == "decoded" or o.blurred.detector is not None

    def outliers(self, context: MethodContext) -> Synthesiser:
        """What ``outliers=`` names, or both kinds (or one), each from a store of its own."""
        kinds = KINDS if self.options.kinds == "both" else {self.options.kinds: KINDS[self.options.kinds]}
        count = max(len(kinds), round(self.options.ratio * context.batch_size))
        sources = dict.fromkeys(kinds.values(), 1.0)
        return given_or(
            lambda: Mixture(sources, count, lambda name, n: self._stored(name, context, n)),
            context,
            count,
            self.options.match,
        )

    def _stored(self, name: str, context: MethodContext, count: int) -> Stored:
        o: FodFoMOptions = self.options
        if name == "fodfom":
            return filled_store(name, o, context, count, at_once=PER_DECODING)
        blurred: dict[str, Any] = dict(o.blurred)
        return filled_store(name, o, context, count, at_once=PER_DRAW, **blurred)
