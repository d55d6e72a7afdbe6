"""Prompts in which one token is a vector of any kind: embedding substitution (Du et al., NeurIPS 2023).

    "A high-quality image of the cat" --tokenizer--> ids --token table--> rows --text encoder--> hidden (L, width)
                                                              row of "cat" := e

The published code overwrites the row in the table, encodes, and puts it back. Here the rows are replaced on their way
out of the table, so that each image of a batch has an e of its own, gradients reach e, and nothing needs putting back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from guard.errors import ConfigError

log = logging.getLogger("ood_guard")


@contextmanager
def substituted(table: nn.Module, tokens: Tensor, e: Tensor) -> Iterator[None]:
    """While this is open, row n of a batch of ids gets e[n] for its token tokens[n], wherever that occurs.

    Args:
        table: the text encoder's input embedding: ids (N, L) -> (N, L, E). Its weights stay as they are.
        tokens: int64 (N,). e: (N, E).
    """

    def replace(_: nn.Module, inputs: tuple[Any, ...], rows: Tensor) -> Tensor:
        here = inputs[0] == tokens[:, None]
        return torch.where(here[..., None], e[:, None].to(rows.dtype), rows)

    handle = table.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


class Prompts:
    """The classes' prompts, and what the text encoder makes of them with e for the class's name.

    A class is stood for by the first token of its name, as in the published code: where a name has several, the others
    stay in the prompt. Underscores are read as spaces.

    Args:
        pipeline: a StableDiffusionPipeline, for its tokenizer, text encoder and `encode_prompt`.
        prompt: {} is the class's name.

    Attributes:
        anchors: (C, E) float32, the input token embeddings of the classes.

    Raises:
        ConfigError: a name that has no token of its own in the prompt.
    """

    def __init__(self, pipeline: Any, class_names: Sequence[str], prompt: str) -> None:
        self._pipeline = pipeline
        self._table: nn.Module = pipeline.text_encoder.get_input_embeddings()
        names = [name.replace("_", " ") for name in class_names]
        self._texts = [prompt.replace("{}", name) for name in names]
        pieces = [pipeline.tokenizer(name).input_ids[1:-1] for name in names]
        self._check(class_names, pieces, prompt)
        self._tell(class_names, pieces)
        device = pipeline.text_encoder.device
        self._tokens = torch.tensor([ids[0] for ids in pieces], device=device)
        weight: Tensor = self._table.weight
        self.anchors = weight.detach()[self._tokens].float()
        with torch.no_grad():
            self._empty = self._encoded([""])

    def hidden(self, e: Tensor, classes: Tensor) -> Tensor:
        """What the UNet attends to, (N, L, width), of e (N, E) that stands for classes (N,); differentiable in e."""
        with substituted(self._table, self._tokens[classes], e):
            return self._encoded([self._texts[c] for c in classes.tolist()])

    def at_end(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's output at the end token of each text (N, width): what it makes of the whole of it."""
        ends = self._ends(texts)
        return self._encoded(list(texts))[torch.arange(len(ends)), ends]

    def with_end(self, features: Tensor, text: str) -> Tensor:
        """What the UNet attends to, (N, L, width), of one text, with features (N, width) at its end token."""
        hidden = self._encoded([text]).repeat(len(features), 1, 1)
        hidden[:, self._ends([text])[0]] = features.to(hidden.dtype)
        return hidden

    def unconditional(self, count: int) -> Tensor:
        """(count, L, width) of the empty prompt, in which nothing is ever substituted."""
        return self._empty.expand(count, -1, -1)

    def _ends(self, texts: Sequence[str]) -> list[int]:
        """Where each text's first end token is."""
        tokenizer = self._pipeline.tokenizer
        ids = tokenizer(list(texts), truncation=True, max_length=tokenizer.model_max_length).input_ids
        return [row.index(tokenizer.eos_token_id) for row in ids]

    def _encoded(self, texts: list[str]) -> Tensor:
        device = self._pipeline.text_encoder.device
        encoded: Tensor = self._pipeline.encode_prompt(texts, device, 1, do_classifier_free_guidance=False)[0]
        return encoded

    def _check(self, class_names: Sequence[str], pieces: list[list[int]], prompt: str) -> None:
        tokenizer = self._pipeline.tokenizer
        for name, text, ids in zip(class_names, self._texts, pieces, strict=True):
            if not ids or ids[0] in (tokenizer.eos_token_id, tokenizer.unk_token_id):
                raise ConfigError(
                    f"the tokenizer has no token for class {name!r}; give the class a name in words, which the prompt "
                    "needs anyway"
                )
            inside = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
            if ids[0] not in inside:
                word = tokenizer.convert_ids_to_tokens(ids[0])
                raise ConfigError(
                    f"class {name!r} begins with the token {word!r}, which is not in its prompt {text!r} (at most "
                    f"{tokenizer.model_max_length} tokens); let {{}} stand alone in prompt=, early enough"
                )

    def _tell(self, class_names: Sequence[str], pieces: list[list[int]]) -> None:
        """Once: which names are more than one token, and which classes begin with the same one."""
        words = [self._pipeline.tokenizer.convert_ids_to_tokens(ids) for ids in pieces]
        several = [f"{name} -> {said[0]}" for name, said in zip(class_names, words, strict=True) if len(said) > 1]
        if several:
            log.warning(
                "%d class names are several tokens, of which only the first is replaced by what is sampled (%s%s); "
                "names of one token stand for their classes better",
                len(several),
                ", ".join(several[:5]),
                ", ..." if len(several) > 5 else "",
            )
        first: dict[int, str] = {}
        alike = [
            f"{first[ids[0]]} = {name}"
            for name, ids in zip(class_names, pieces, strict=True)
            if first.setdefault(ids[0], name) is not name
        ]
        if alike:
            log.warning("classes whose names begin with one token have one embedding: %s", ", ".join(alike[:5]))
