"""A vector in place of a class's token, against the published way to substitute: overwriting the row."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from guard.errors import ConfigError
from tests.tiny_stable_diffusion import WIDTH
from tests.train.generators.diffusion.pipelines import CPU, NAMES, PROMPT, generator, made, overwritten
from train.generators.diffusion.stable_diffusion import StableDiffusion


def test_each_image_has_its_own_e_as_if_the_row_had_been_overwritten(model: StableDiffusion, reference: Any) -> None:
    classes = torch.tensor([0, 1, 0, 2])
    e = torch.randn(4, WIDTH, generator=generator())
    found = model.prompts.hidden(e, classes)
    expected = torch.cat([overwritten(reference, NAMES[c], e[i]) for i, c in enumerate(classes)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found[0] - found[2]).abs().max() > 0.1


def test_every_place_of_the_token_is_replaced(tiny_pipeline: Path, tmp_path: Path, reference: Any) -> None:
    twice = made(tiny_pipeline, tmp_path, names=("cat", "image"))  # "image" is in the prompt as well
    e = torch.randn(1, WIDTH, generator=generator())
    found = twice.prompts.hidden(e, torch.tensor([1]))
    torch.testing.assert_close(found, overwritten(reference, "image", e[0]), rtol=1e-5, atol=1e-6)


def test_the_empty_prompt_and_the_table_stay_as_they_are_even_after_a_failure(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(tiny_pipeline, tmp_path)
    table = model.pipeline.text_encoder.get_input_embeddings()
    before, empty = table.weight.clone(), model.prompts.unconditional(2).clone()
    classes = torch.tensor([0, 1])
    plain = model.latents(model.condition(classes), classes, generator())

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(model.pipeline.text_encoder.encoder, "forward", fail)
        with pytest.raises(RuntimeError, match="no luck"):
            model.latents(torch.randn(2, WIDTH), classes, generator())
    assert not table._forward_hooks
    assert table.weight.equal(before)
    assert model.prompts.unconditional(2).equal(empty)
    assert model.prompts.unconditional(1)[0].equal(model.pipeline.encode_prompt("", CPU, 1, False)[0][0])
    assert model.latents(model.condition(classes), classes, generator()).equal(plain)


def test_names_of_several_tokens_are_told_once_with_the_piece_that_stands_for_them(
    tiny_pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ood_guard"):
        model = made(tiny_pipeline, tmp_path, names=("cat", "dog_house", "dog_photo"))
        model.sample(model.condition(torch.arange(3)), torch.arange(3), generator())
    several, alike = [r.getMessage() for r in caplog.records]
    assert "2 class names are several tokens" in several
    assert "dog_house -> dog</w>, dog_photo -> dog</w>" in several
    assert "dog_house = dog_photo" in alike
    assert model.condition(torch.tensor([1])).equal(model.condition(torch.tensor([2])))


@pytest.mark.parametrize(
    ("names", "prompt", "message"),
    [
        (
            ("cat", "dog"),
            "the {}s",
            "class 'cat' begins with the token 'cat</w>', which is not in its prompt 'the cats'",
        ),
        (("cat", "dog"), "a " * 40 + "{}", "which is not in its prompt .*at most 24 tokens"),
        (("cat", "日本"), PROMPT, "the tokenizer has no token for class '日本'"),
    ],
)
def test_prompts_without_the_class_in_them_are_refused(
    tiny_pipeline: Path, tmp_path: Path, names: tuple[str, ...], prompt: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tiny_pipeline, tmp_path, names=names, prompt=prompt)
