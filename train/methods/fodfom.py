"""FodFoM. Source: Chen, Deng, Gan, Zheng & Wang, ACM MM 2024 (methods.md B9).

    outliers, half and half: decoded from beyond the edge of each class       train.outliers.images.fodfom
                             in-distribution images with the object blurred   train.outliers.images.blurred_object
    L = CE over C + 1 classes, all outliers the last one, + contrast * SupCon over the same classes, temperature 0.1
    score: the energy over the first C logits

Both kinds go into stores (``out/outliers/fodfom``, ``out/outliers/blurred_object``); ``outliers=`` names images or a
store to take in their place.

Departures, each on purpose. (1) The published pipeline takes four foundation models. Here the diffusion model is your
own or Stable Diffusion; image features stand in for captions (``captioner=`` takes a captioning model), and the box
around a class activation map for the detector's (``detector=``). That map needs a trained classifier, so without a
detector a plain one is trained first (or comes from ``init=``) and tuned on the outliers; with one, training starts
from scratch as published. (2) SupCon compares one view of each image; the paper's code two, of stronger augmentation.
(3) Outliers are as many as in-distribution images in each batch; published, the three sets are shuffled together.
Published schedule: 200 epochs of 512 images, lr 0.05, divided by 10 after 100 and 150.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..losses.k_plus_1 import KPlusOneLoss
from ..losses.supcon import SupConLoss, projector
from ..outliers.base import Synthesiser
from ..outliers.images.blurred_object import BlurredObjectOptions
from ..outliers.images.fodfom import FodFoMOptions
from ..outliers.sources import Mixture
from ..outliers.store.drawing import Stored
from .base import Method, MethodContext, Stage, register
from .from_store import PER_DRAW, DecodedOptions, filled_store, given_or

KINDS = {"blurred": "blurred_object", "decoded": "fodfom"}  # minutes before hours: what is wrong is said sooner


class FodFoMMethodOptions(DecodedOptions, FodFoMOptions, BlurredObjectOptions):
    """Options of the images, and of their use.

    Attributes:
        weight: of the outliers' cross-entropy. contrast: of SupCon. temperature: of SupCon.
        projection: width in which SupCon compares, behind a learned projector; 0: the features themselves.
        kinds: which outliers; the paper compares all three.
        store_size: as in `DecodedOptions`, of each kind; as published.
        tune_epochs, tune_lr: of the stage with outliers, where a plain classifier comes first.
    """

    weight: float = Field(default=1.0, ge=0)
    contrast: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    projection: int = Field(default=128, ge=0)
    kinds: Literal["both", "decoded", "blurred"] = "both"
    tune_epochs: int = Field(default=10, ge=1)
    tune_lr: float = Field(default=0.01, gt=0)


@register
class FodFoM(Method):
    """A class of their own for decoded edges of the classes and for blurred objects (Chen et al., ACM MM 2024)."""

    name = "fodfom"
    Options = FodFoMMethodOptions
    head = "c_plus_1"
    heads: ClassVar[tuple[str, ...]] = ("c_plus_1",)
    wants_outliers = "optional"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: FodFoMMethodOptions = self.options
        project = projector(context.num_features, o.projection) if o.projection else None
        learned = (
            KPlusOneLoss(o.weight),
            SupConLoss(o.contrast, o.temperature, outlier_class=True, project=project),
        )
        outliers = self.outliers(context)
        tuning = Stage("tuning", o.tune_epochs, o.tune_lr, outliers, learned)
        if context.initialised:
            return [tuning]
        if self.needs_no_classifier(context):
            return [Stage("classifier", context.epochs, context.lr, outliers, learned)]
        return [Stage("classifier", context.epochs, context.lr), tuning]

    def needs_no_classifier(self, context: MethodContext) -> bool:
        """Whether the outliers can be made before anything is trained."""
        o: FodFoMMethodOptions = self.options
        return bool(context.outliers) or o.kinds == "decoded" or o.detector is not None

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
        o: FodFoMMethodOptions = self.options
        at_once = o.sampling_batch if name == "fodfom" else PER_DRAW
        return filled_store(name, o, context, count, at_once=at_once)
