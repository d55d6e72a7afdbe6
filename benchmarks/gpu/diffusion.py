"""Stable Diffusion v1.4's architecture with random weights: images/s against diffusers' own loop, memory, and calls.

Time does not depend on the weights, so none are carried. The same text embeddings, latents, steps and guidance go
through `StableDiffusion.sample` and through the pipeline alone, decoding included. "Embedding calls" are NCIS's: each
a forward and a backward pass of the network for one noise of one image.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guard.latency.interleave import interleave
from tests.tiny_stable_diffusion import END, START, WORDS, bpe, save_tiny_pipeline

from .part import Part, run, synchronise

TITLE = "Stable Diffusion v1.4's architecture"
CLASSES = ("cat", "dog", "frog")


def measure(part: Part) -> None:
    """Sampling, then embedding; skipped where diffusers is not there."""
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        part.skip("all of it", error)
        return
    from train.generators.diffusion.base import DiffusionOptions
    from train.generators.diffusion.pipeline import open_pipeline
    from train.generators.diffusion.stable_diffusion import StableDiffusion

    with tempfile.TemporaryDirectory() as name:
        folder = save_tiny_pipeline(Path(name)) if part.toy else save_large_pipeline(Path(name))
        options = DiffusionOptions(model="stable-diffusion", pipeline=str(folder), sampling_steps=2 if part.toy else 20)
        model = StableDiffusion(open_pipeline(str(folder), part.device), CLASSES, 3, options)
        for batch in (1,) if part.toy else (1, 8):
            part.attempt(f"sampling {batch} at once", partial(_sampled, part, model, batch))
        part.attempt("embedding", partial(_embedded, part, model))


def _sampled(part: Part, model: Any, batch: int) -> None:
    classes = torch.arange(batch, device=part.device) % len(CLASSES)
    e = model.condition(classes)
    hidden = model.prompts.hidden(e, classes)

    def generator() -> torch.Generator:
        return torch.Generator(part.device).manual_seed(0)

    def ours() -> Tensor:
        return waited(model.sample(e, classes, generator()))

    def waited(made: Tensor) -> Tensor:
        synchronise(part.device)
        return made

    def bare() -> Tensor:
        made = model.pipeline(
            prompt_embeds=hidden,
            negative_prompt_embeds=model.prompts.unconditional(batch),
            num_inference_steps=model.steps,
            guidance_scale=model.guidance,
            generator=generator(),
            output_type="pt",
        ).images
        return waited((made * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu())

    calls: dict[str, Callable[[], object]] = {"bare": bare, "ours": ours}
    timings = interleave(calls, rounds=2 if part.toy else 3, round_s=1e-3)
    t = timings["ours"]
    columns = {
        "what": "sampling",
        "batch": batch,
        "steps": model.steps,
        "bare, images/s": batch / timings["bare"].seconds,
        "ours, images/s": batch / t.seconds,
        "ours / bare, images/s": 1 / t.ratio,
    }
    part.row(**columns, **{"memory, GiB": _memory(part, ours)})


def _embedded(part: Part, model: Any) -> None:
    from train.outliers.conditioning.prompt_tuning import EmbedOptions, row_batches, tuned

    count, options = (2, EmbedOptions(iterations=1, pairs=2)) if part.toy else (4, EmbedOptions())
    classes = torch.arange(count, device=part.device) % len(CLASSES)
    shape = (count, *model.latent_shape)
    latents = torch.randn(shape, device=part.device, generator=torch.Generator(part.device).manual_seed(0))
    batches = row_batches(model, options.batch_size)

    def embed() -> None:
        generators = [torch.Generator(part.device).manual_seed(i) for i in range(count)]
        tuned(model, latents, classes, generators, options, 1.0, None, batches)
        synchronise(part.device)

    embed()
    began = time.perf_counter()
    embed()
    seconds = time.perf_counter() - began
    calls = count * options.iterations * options.pairs
    speed = {"embedding calls/s": calls / seconds, "images/s embedded": count / seconds}
    part.row(what="embedding (NCIS)", batch=count, **speed, **{"memory, GiB": _memory(part, embed)})


def _memory(part: Part, call: Callable[[], object]) -> float:
    """The most that the device held during a call, GiB; 0 on a CPU."""
    if part.device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(part.device)
    call()
    return float(torch.cuda.max_memory_allocated(part.device) / 2**30)


def save_large_pipeline(folder: Path) -> Path:
    """Networks of the published sizes, half precision, random; the tokenizer of the tiny one, padded to 77."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = folder / "tokenizer"
    save_tiny_pipeline(folder)
    vocabulary, _ = bpe(WORDS)
    ends = {"bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END], "pad_token_id": vocabulary[END]}
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **ends
    )
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        ).half(),
        text_encoder=CLIPTextModel(text).half(),
        tokenizer=CLIPTokenizer.from_pretrained(str(words), model_max_length=77),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).half(),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    (words / "tokenizer.json").unlink(missing_ok=True)
    return folder


if __name__ == "__main__":
    run("diffusion", TITLE, measure)
