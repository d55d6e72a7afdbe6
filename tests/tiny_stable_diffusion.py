"""A StableDiffusionPipeline of tiny, randomly initialised parts, whole as a real one on disk.

Its tokenizer knows a few words as single tokens (`WORDS`) and spells the others letter by letter, as CLIP's does with
what it has no token for. Latents are (4, 8, 8), images 32 x 32; the conditioning space is 32 wide.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch

WIDTH = 32
TOKENS = 24  # of a prompt, padded; CLIP's 77 would be slower and no different
IMAGE_SIZE = 32
LATENT_SHAPE = (4, 8, 8)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ANIMALS = ("cat", "dog", "frog")
WORDS = ("this", "a", "high", "quality", "image", "of", "the", "photo", "is", *DIGITS, *ANIMALS)
START, END = "<|startoftext|>", "<|endoftext|>"


def save_tiny_pipeline(folder: Path, tokens: tuple[str, ...] = WORDS) -> Path:
    """Make it and save it into `folder`, by diffusers' own `save_pretrained`; `tokens` are single tokens."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocabulary, merges = bpe(tokens)
    words = folder / "tokenizer"
    words.mkdir(parents=True)
    (words / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (words / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(str(words), model_max_length=TOKENS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=vocabulary[START],
                eos_token_id=vocabulary[END],
                pad_token_id=vocabulary[END],
                initializer_factor=4.0,  # so that words differ enough to give different images
            )
        )
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            block_out_channels=(16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            sample_size=IMAGE_SIZE,
        )
        with torch.no_grad():  # untrained, it would decode everything to one grey
            vae.decoder.conv_out.weight *= 2
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    (words / "tokenizer.json").unlink()  # published pipelines of version 1 have the two files above alone
    return folder


def bpe(words: tuple[str, ...]) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a byte-pair encoding in which each of `words` is one token.

    A word grows from its first letter on, and words come in order: "high" before "this" would join its "hi" first.
    """
    letters = list(string.ascii_lowercase + string.digits + "-_'.,")
    pieces = letters + [letter + "</w>" for letter in letters]
    merges: dict[str, None] = {}  # in order, each once
    for word in words:
        grown, *rest = [*word[:-1], word[-1] + "</w>"]
        for piece in rest:
            merges[f"{grown} {piece}"] = None
            grown += piece
            if grown not in pieces:
                pieces.append(grown)
    return {piece: number for number, piece in enumerate([*pieces, START, END])}, list(merges)
