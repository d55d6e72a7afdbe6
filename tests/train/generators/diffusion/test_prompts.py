"""A vector in place of a class's token, against the published way to substitute: overwriting the row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from guard.errors import ConfigError
from tests.tiny_stable_diffusion import WIDTH
from tests.train.generators.diffusion.pipelines import CPU, NAMES, PROMPT, generator, made, overwritten
from train.generators.diffusion.class_prompts import read_class_prompts
from train.generators.diffusion.pipeline import pipeline_identity
from train.generators.diffusion.prompts import Prompts
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
        model = made(tiny_pipeline, tmp_path, names=("cat", "dog_house", "frog_photo"))
        model.sample(model.condition(torch.arange(3)), torch.arange(3), generator())
        Prompts(model.pipeline, ("cat", "dog_house", "frog_photo"), "a {}")  # another prompt of the same pipeline
    (several,) = [r.getMessage() for r in caplog.records]
    assert "2 class names are several tokens" in several
    assert "dog_house -> dog</w>, frog_photo -> frog</w>" in several


def test_classes_of_one_token_are_refused_in_one_sentence(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"2 classes have the same token .*dog_a = dog_of \(dog</w>\).*class_prompts"
    ) as e:
        made(tiny_pipeline, tmp_path, names=("cat", "dog_a", "dog_of", "dog_the"))
    assert len(str(e.value)) < 300


def test_a_class_can_be_given_words_and_the_token_that_stands_for_it(
    tiny_pipeline: Path, tmp_path: Path, reference: Any
) -> None:
    given = {
        "c1": {"prompt": "high quality dog", "token": "dog"},
        "c2": "frog",
        "c3": {"prompt": "photo of a {}", "token": "cat"},
    }
    model = made(tiny_pipeline, tmp_path, names=("c1", "c2", "c3"), class_prompts=given)
    ids = reference.tokenizer.convert_tokens_to_ids(["dog</w>", "frog</w>", "cat</w>"])
    assert model.prompts.tokens.tolist() == ids
    assert model.condition(torch.arange(3)).equal(reference.text_encoder.get_input_embeddings().weight[ids].detach())
    assert model.prompts.texts == [PROMPT.format("high quality dog"), PROMPT.format("frog"), "photo of a cat"]
    assert model.class_words() == ["high quality dog", "frog", "cat"]  # in captions, too
    e = torch.randn(1, WIDTH, generator=generator())
    table = reference.text_encoder.get_input_embeddings().weight
    kept = table[ids[0]].detach().clone()
    with torch.no_grad():
        table[ids[0]] = e[0]
        text = reference.tokenizer(model.prompts.texts[0], padding="max_length", return_tensors="pt").input_ids
        expected = reference.text_encoder(text)[0]
        table[ids[0]] = kept
    torch.testing.assert_close(model.prompts.hidden(e, torch.tensor([0])), expected, rtol=1e-5, atol=1e-6)
    named = made(tiny_pipeline, tmp_path / "named")
    assert model.identity != named.identity == pipeline_identity(named.pipeline)


def test_class_prompts_come_from_files_too(tmp_path: Path) -> None:
    wanted = {"a b": {"prompt": "aquarium fish", "token": "fish"}, "c": {"prompt": "cat"}}
    (tmp_path / "names.json").write_text(json.dumps({**wanted, "c": "cat"}))
    (tmp_path / "names.csv").write_text("class,prompt,token\na b,aquarium fish,fish\nc,cat,\n")
    for name in ("names.json", "names.csv"):
        assert read_class_prompts(str(tmp_path / name)) == wanted
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "wrong.csv").write_text("name\na\n")
    for name, message in {
        "list.json": "no JSON object",
        "wrong.csv": "columns class",
        "none.json": "not there",
    }.items():
        with pytest.raises(ConfigError, match=f"{name}.*{message}"):
            read_class_prompts(str(tmp_path / name))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cow": "cat"}, "names 1 classes that the images do not have .cow.; theirs are cat, dog, frog"),
        (
            {"cat": {"token": "maple"}},
            "token 'maple' of class 'cat' is not one token for the tokenizer but m, a, p, l, e",
        ),
        ({"cat": {"prompt": "photo", "token": "this"}}, "the token 'this</w>', which is not in its prompt"),
        ({"cat": "dog"}, "1 classes have the same token"),
    ],
)
def test_prompts_that_fit_no_class_are_refused(tiny_pipeline: Path, tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tiny_pipeline, tmp_path, class_prompts=given)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("LOC_synset_mapping.txt", "n00000001 maple, dog\nn00000002 dog, Frog\nn00000003 high quality cat\n"),
        ("words.txt", "n00000001\tmaple, dog\nn00000002\tdog, frog\nn00000003\thigh quality cat\n"),
        (
            "imagenet_class_index.json",
            '{"0": ["n00000001", "dog"], "1": ["n00000002", "frog"], "2": ["n00000003", "a_cat"]}',
        ),
    ],
)
def test_wordnet_ids_are_read_by_a_file_beside_the_images(
    tiny_pipeline: Path, tmp_path: Path, reference: Any, file: str, text: str
) -> None:
    """A synonym that is one token and nobody else's; else the last word of the first."""
    (tmp_path / file).write_text(text)
    model = made(tiny_pipeline, tmp_path, names=("n00000001", "n00000002", "n00000003"))
    ids = reference.tokenizer.convert_tokens_to_ids(["dog</w>", "frog</w>", "cat</w>"])
    assert model.prompts.tokens.tolist() == ids


def test_wordnet_ids_without_names_are_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"WordNet ids \(n00000001 .*LOC_synset_mapping.txt.*class_prompts"):
        made(tiny_pipeline, tmp_path, names=("n00000001", "n00000002"))


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
