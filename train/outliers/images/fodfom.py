"""FodFoM's first kind of outlier: decoded from beyond the edge of a class. Source: Chen et al., ACM MM 2024
(methods.md B9); the second kind is `blurred_object`.

    f(x) in the diffusion model's conditioning space;   e_k = f + k step (f - mean of the class), f on the class's edge
    x~ = the diffusion model's image of e_k                                      train.outliers.conditioning.edge

As published, f is the text feature of a caption of x (``captioner=``, an image-to-text model of yours; Stable Diffusion
alone has a text encoder). Without one there are class names only, one embedding per class and nothing to be the edge
of. So by default f(x) is an image feature in the same conditioning space, of unit length, from the encoder that
Dream-OOD trains (`train.outliers.conditioning.encoder`), and e_k is as long as the class's own embedding.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.errors import ConfigError
from guard.heads import unit

from ...engine.distributed import Processes
from ...generators.diffusion import DiffusionOptions, beside_model, make_diffusion
from ..base import PrepareContext, register_synthesiser
from ..conditioning.captions import PROMPT, caption_features, captioned
from ..conditioning.edge import Beyond, EdgeOptions, beyond_edges
from ..conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..conditioning.table import Embeddings
from ..resize import ResizeOptions
from .decoded import DecodedEmbeddings


class FodFoMOptions(DiffusionOptions, EncoderOptions, EdgeOptions, ResizeOptions):
    """Options of the diffusion model, the encoder, the edge and the resizing.

    Attributes:
        captioner: folder or hub id of an image-to-text model of transformers (BLIP, BLIP-2, GIT), with its processor.
            The features are then those of captions, and no encoder is trained. For Stable Diffusion.
    """

    captioner: str | None = None

    @model_validator(mode="after")
    def _reads_captions(self) -> Self:
        if self.captioner is not None and self.diffusion == "own":
            raise ConfigError(
                f"captioner={self.captioner!r} needs a text encoder, which diffusion='own' has not: add "
                "diffusion='stable-diffusion', or drop it"
            )
        return self


@register_synthesiser
class FodFoM(DecodedEmbeddings):
    """Images decoded from beyond the edge of each class in a diffusion model's conditioning space (FodFoM)."""

    name: ClassVar[str] = "fodfom"
    source: ClassVar[str] = "FodFoM, Chen et al., ACM MM 2024"
    Options: ClassVar = FodFoMOptions

    def prepare_together(self, context: PrepareContext, us: Processes) -> None:
        if self.options.captioner is not None:
            with us.main_process_first():
                diffusion = make_diffusion(context, self.options)
            caption_features(beside_model(context, self.options), diffusion, self.options, self.options.captioner, us)

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        captioner = self.options.captioner
        if captioner is not None:
            captions = caption_features(context, self._model[0], self.options, captioner)
            return self._embeddings(beyond_edges(*captions, self.num_classes, self.options))
        encoder = trained_encoder(context, anchors, self.options)
        features = training_features(context, encoder, self.options)
        points = beyond_edges(unit(features.data), features.labels, self.num_classes, self.options)
        lengths = torch.linalg.vector_norm(anchors, dim=-1)[points.classes, None]
        return self._embeddings(points._replace(data=lengths * unit(points.data)))

    def _embeddings(self, points: Beyond) -> Embeddings:
        return Embeddings(points.data, points.classes, points.classes[:, None])

    def images(self, drawn: Embeddings, generator: torch.Generator) -> Tensor:
        if self.options.captioner is None:
            return super().images(drawn, generator)
        return captioned(self._model[0], self.options).sample_text(drawn.data, PROMPT, generator)

    def origin(self) -> str:
        return "decoded from beyond the edge of a class"
