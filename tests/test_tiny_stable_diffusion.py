"""The pipeline that other tests use is what they take it for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny_stable_diffusion import IMAGE_SIZE, WIDTH, WORDS


def test_its_words_and_digits_are_one_token_each_and_others_are_spelled(tiny_pipeline: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(tiny_pipeline / "tokenizer"))
    for word in (*WORDS, *"0123456789"):
        assert tokenizer.convert_ids_to_tokens(tokenizer(word).input_ids)[1:-1] == [word + "</w>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("maple").input_ids)[1:-1] == ["m", "a", "p", "l", "e</w>"]


def test_it_makes_images_that_follow_the_prompt(tiny_pipeline: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipe.set_progress_bar_config(disable=True)
    made = [
        pipe(p, num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images
        for p in ("a photo of the cat", "a photo of the dog")
    ]
    assert made[0].shape == (1, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert pipe.text_encoder.config.hidden_size == WIDTH
    assert abs(made[0] - made[1]).mean() > 1e-3
    assert made[0].std((1, 2)) == pytest.approx(0.2, abs=0.15)  # neither flat nor black and white
