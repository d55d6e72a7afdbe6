"""Prompts in which one token is a vector of any kind: embedding substitution (Du et al., NeurIPS 2023).

    "A high-quality image of the cat" --tokenizer--> ids --token table--> rows --text encoder--> hidden (L, width)
                                                              row of "cat" := e

The published code overwrites the row in the table, encodes, and puts it back. Here the rows are replaced on their way
out of the table, so that each image of a batch has an e of its own, gradients reach e, and nothing needs putting back.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from guard.errors import ConfigError

from .class_prompts import ClassPrompt, check_classes_known, wordnet_names

log = logging.getLogger("ood_guard")

_TOLD: weakref.WeakKeyDictionary[Any, set[tuple[str, ...]]] = weakref.WeakKeyDictionary()


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


class Called(NamedTuple):
    """What one class is called: its prompt, the token of it that stands for the class, the tokens of its words, and the
    words."""

    text: str
    token: int
    pieces: list[int]
    words: str


class Prompts:
    """The classes' prompts, and what the text encoder makes of them with e for the class's name.

    A class is stood for by one token of its prompt: that of `class_prompts`, else the first of its name, as in the
    published code; the other tokens of a name stay in the prompt. Underscores are read as spaces. Where folders are
    named by WordNet ids, names come from a file beside the images, and the token is that of the first synonym that is
    a single one, else the last of the first synonym, else another that no class before has.

    Args:
        pipeline: a StableDiffusionPipeline, for its tokenizer, text encoder and `encode_prompt`.
        prompt: {} is the class's name.
        class_prompts: by class; others go by their names.
        folder: of the images.

    Attributes:
        anchors: (C, E) float32, the input token embeddings of the classes.

    Raises:
        ConfigError: a class without a token in its prompt; two classes with the same one.
    """

    def __init__(
        self,
        pipeline: Any,
        class_names: Sequence[str],
        prompt: str,
        class_prompts: Mapping[str, ClassPrompt] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._table: nn.Module = pipeline.text_encoder.get_input_embeddings()
        given = class_prompts or {}
        check_classes_known(given, class_names)
        ids = wordnet_names([name for name in class_names if name not in given], folder)
        self._prompt, taken = prompt, set[int]()
        called = []
        for name in class_names:
            if name in given:
                called.append(self._as_given(name, given[name]))
            elif name in ids:
                called.append(self._by_synonym(name, ids[name], taken))
            else:
                called.append(self._by_name(name))
            taken.add(called[-1].token)
        self.texts, self.words = [one.text for one in called], [one.words for one in called]
        self._check(class_names, called)
        self._tell([name for name in class_names if name not in given and name not in ids], class_names, called)
        self.own_names = bool(given or ids)
        device = pipeline.text_encoder.device
        self.tokens = torch.tensor([one.token for one in called], device=device)
        weight: Tensor = self._table.weight
        self.anchors = weight.detach()[self.tokens].float()
        with torch.no_grad():
            self._empty = self._encoded([""])

    def _pieces(self, words: str) -> list[int]:
        pieces: list[int] = self._pipeline.tokenizer(words).input_ids[1:-1]
        return pieces

    def _usable(self, pieces: list[int]) -> bool:
        tokenizer = self._pipeline.tokenizer
        return bool(pieces) and pieces[0] not in (tokenizer.eos_token_id, tokenizer.unk_token_id)

    def _by_name(self, name: str) -> Called:
        words = name.replace("_", " ")
        pieces = self._pieces(words)
        if not self._usable(pieces):
            raise ConfigError(
                f"the tokenizer has no token for class {name!r}; give the class a name in words, which the prompt "
                "needs anyway, or diffusion.class_prompts"
            )
        return Called(self._prompt.replace("{}", words), pieces[0], pieces, words)

    def _as_given(self, name: str, given: ClassPrompt) -> Called:
        words = (given.prompt or name).replace("_", " ")
        if given.token is None:
            token = words if "{}" not in words else name.replace("_", " ")
            pieces = self._pieces(token)
        else:
            token = given.token
            pieces = self._pieces(token)
            if len(pieces) != 1:
                said = ", ".join(self._pipeline.tokenizer.convert_ids_to_tokens(pieces)) or "none"
                raise ConfigError(
                    f"diffusion.class_prompts: token {token!r} of class {name!r} is not one token for the tokenizer "
                    f"but {said}; give a shorter word of the prompt"
                )
        if not self._usable(pieces):
            raise ConfigError(f"diffusion.class_prompts: the tokenizer has no token for class {name!r}; give words")
        if "{}" in words:
            return Called(words.replace("{}", token), pieces[0], pieces[:1], token)
        return Called(self._prompt.replace("{}", words), pieces[0], pieces, words)

    def _by_synonym(self, name: str, synonyms: tuple[str, ...], taken: set[int]) -> Called:
        split = [(words, self._pieces(words)) for words in synonyms]
        usable = [(words, pieces) for words, pieces in split if self._usable(pieces)]
        ways = [(words, pieces, pieces[0]) for words, pieces in usable if len(pieces) == 1]
        ways += [(words, pieces, token) for words, pieces in usable for token in reversed(pieces)]
        for words, pieces, token in [*(way for way in ways if way[2] not in taken), *ways]:
            return Called(self._prompt.replace("{}", words), token, pieces, words)
        raise ConfigError(f"the tokenizer has no token for class {name!r}; give diffusion.class_prompts")

    def hidden(self, e: Tensor, classes: Tensor) -> Tensor:
        """What the UNet attends to, (N, L, width), of e (N, E) that stands for classes (N,); differentiable in e."""
        with substituted(self._table, self.tokens[classes], e):
            return self._encoded([self.texts[c] for c in classes.tolist()])

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

    def _check(self, class_names: Sequence[str], called: Sequence[Called]) -> None:
        tokenizer = self._pipeline.tokenizer
        first: dict[int, str] = {}
        alike: list[str] = []
        for name, one in zip(class_names, called, strict=True):
            word = tokenizer.convert_ids_to_tokens(one.token)
            if one.token not in tokenizer(one.text, truncation=True, max_length=tokenizer.model_max_length).input_ids:
                raise ConfigError(
                    f"class {name!r} begins with the token {word!r}, which is not in its prompt {one.text[:80]!r} (at "
                    f"most {tokenizer.model_max_length} tokens); let {{}} stand alone in prompt=, early enough"
                )
            if first.setdefault(one.token, name) != name:
                alike.append(f"{first[one.token]} = {name} ({word})")
        if alike:
            raise ConfigError(
                f"{len(alike)} classes have the same token as one before and could not be told apart: "
                f"{', '.join(alike[:3])[:90]}; rename them or give another, diffusion.class_prompts="
                "{'class': {'prompt': 'aquarium fish', 'token': 'fish'}}"
            )

    def _tell(self, by_name: Sequence[str], class_names: Sequence[str], called: Sequence[Called]) -> None:
        """Once per pipeline: which names are more than one token."""
        words = self._pipeline.tokenizer.convert_ids_to_tokens
        pairs = [(name, one) for name, one in zip(class_names, called, strict=True) if name in by_name]
        several = [f"{name} -> {words(one.token)}" for name, one in pairs if len(one.pieces) > 1]
        told = _TOLD.setdefault(self._pipeline, set())
        if several and tuple(several) not in told:
            told.add(tuple(several))
            log.warning(
                "%d class names are several tokens, of which only the first is replaced by what is sampled (%s%s); "
                "diffusion.class_prompts chooses another",
                len(several),
                ", ".join(several[:5]),
                ", ..." if len(several) > 5 else "",
            )
