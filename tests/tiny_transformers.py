"""Tiny, randomly initialised models of transformers with whole processors: a detector and a captioning model."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

SIDE = 32
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "cat", "dog", "frog", "image", "photo", "of", "the")
LETTERS = tuple(string.ascii_lowercase + string.digits)
VOCABULARY = {word: i for i, word in enumerate((*WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)))}


def _tokenizer() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab=dict(VOCABULARY))


def save_tiny_detector(folder: Path) -> Path:
    """A GroundingDINO that finds up to eight boxes."""
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=SIDE,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[2, 2],
            window_size=4,
            out_features=["stage1", "stage2"],
        ),
        text_config=BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=8,
        num_feature_levels=2,
        max_text_len=16,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GroundingDinoForObjectDetection(config)
        with torch.no_grad():  # untrained, its boxes would be a twentieth of the image
            model.bbox_embed[-1].layers[-1].bias[2:] += 1.5
    model.save_pretrained(folder)
    size = {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), _tokenizer()).save_pretrained(folder)
    return folder


def save_tiny_captioner(folder: Path) -> Path:
    """A BLIP that says what comes to its mind."""
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        vocab_size=len(VOCABULARY),
        encoder_hidden_size=16,
        projection_dim=16,
        bos_token_id=VOCABULARY["[CLS]"],
        eos_token_id=VOCABULARY["[SEP]"],
        sep_token_id=VOCABULARY["[SEP]"],
        pad_token_id=VOCABULARY["[PAD]"],
        initializer_range=1.0,  # so that images differ enough to be called differently
        **shared,
    )
    vision = BlipVisionConfig(image_size=SIDE, patch_size=8, initializer_range=1.0, projection_dim=16, **shared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BlipForConditionalGeneration(
            BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
        )
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    BlipProcessor(BlipImageProcessor(size=size), _tokenizer()).save_pretrained(folder)
    return folder
