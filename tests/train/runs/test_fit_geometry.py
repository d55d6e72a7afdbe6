"""guard.fit sees the pixels that the classifier saw in training: in torch, in the exported file and in the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import guard
from guard.errors import ConfigError
from serving.engine import to_input as served  # the one implementation
from tests.train.models import sequential

HALF = {"mean": 0.5, "std": 0.5, "device": "cpu"}
CASES: dict[str, dict[str, Any]] = {
    "squash": {"resize": "squash", "image_size": 24},
    "pad": {"resize": "pad", "image_size": (24, 30), "fill": (90, 20, 200)},
    "crop_pct": {"crop_pct": 0.8, "image_size": "24x20", "interpolation": "bicubic"},
    "blue first": {"image_size": 24, "channel_order": "bgr", "mean": (104, 117, 123), "std": (1, 2, 3)},
    "transparency dropped": {"image_size": 24, "background": "drop"},
    "black behind": {"image_size": 24, "background": "black"},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 25 pictures of 40 x 26 pixels, partly transparent."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(100):
        pixels = rng.integers(0, 256, (7, 10, 4), dtype=np.uint8)
        pixels[..., index % 4 % 3] //= 2
        pixels[..., 3] |= 128
        folder = root / "abcd"[index % 4]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((40, 26), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return root


def seen(path: Path, case: dict[str, Any]) -> Tensor:
    """float (1, 3, H, W) of a picture as the classifier's own pipeline would make it; written out by hand."""
    image: Any = Image.open(path)
    if case.get("background") == "black":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0)), image)
    elif case.get("background") != "drop":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255)), image)
    image = image.convert("RGB")
    if case.get("resize") == "squash":
        image = image.resize((24, 24), Image.Resampling.BILINEAR)
    elif case.get("resize") == "pad":
        canvas = Image.new("RGB", (30, 24), case["fill"])
        canvas.paste(image.resize((30, 20), Image.Resampling.BILINEAR), (0, 2))  # 26 * 30 / 40 = 19.5
        image = canvas
    elif "crop_pct" in case:  # 24 / 0.8 = 30 and 25 before the cut
        image = image.resize((46, 30), Image.Resampling.BICUBIC).crop((13, 3, 33, 27))
    else:
        image = image.resize((36, 24), Image.Resampling.BILINEAR).crop((6, 0, 30, 24))
    x = np.asarray(image).astype(np.float32)
    x = (x[..., ::-1] - case["mean"]) / case["std"] if "channel_order" in case else x / 127.5 - 1
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)[None], dtype=np.float32))


@pytest.mark.parametrize("name", CASES)
def test_the_guard_answers_as_the_model_on_its_own_pixels(name: str, pictures: Path, tmp_path: Path) -> None:
    case, model = CASES[name], sequential().eval()
    g = guard.fit(model, pictures, out=tmp_path / "run", **{**HALF, **case})
    paths = sorted(pictures.glob("*/*.png"))[::9]
    with torch.inference_mode():
        expected = torch.cat([model(seen(path, case)) for path in paths]).softmax(-1).numpy()
    for made in (g, guard.Guard.from_pretrained(tmp_path / "run", device="cpu", model=sequential())):
        got = made.predict(paths)
        # composing colours under half-transparent pixels rounds otherwise than Pillow's alpha_composite by one level
        np.testing.assert_allclose(got.probabilities, expected, atol=0.01 if name != "transparency dropped" else 1e-5)
    exported = guard.load(_exported(g, tmp_path))
    assert exported.manifest.preprocess == g.manifest.preprocess
    there = exported.predict(paths)
    np.testing.assert_allclose(there.probabilities, g.predict(paths).probabilities, atol=1e-5)
    pixels = np.stack([served(path.read_bytes(), exported.manifest.preprocess) for path in paths])
    np.testing.assert_array_equal(exported.predict_batches([pixels]).ood_score, there.ood_score)


def _exported(g: guard.Guard, folder: Path) -> Path:
    guard.export(g, folder / "guard.onnx")
    return folder / "guard.onnx"


class Grey(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).repeat(1, 4)


def test_a_network_of_one_channel_has_no_order_of_colours(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="'bgr' is for three channels, and the model takes one"):
        guard.fit(Grey(), pictures, in_chans=1, image_size=24, channel_order="bgr", **HALF)


def test_a_guard_has_its_own_geometry(pictures: Path) -> None:
    g = guard.fit(sequential(), pictures, image_size=24, resize="squash", **HALF)
    with pytest.raises(ConfigError, match="has its own resize, channel_order; omit them"):
        guard.fit(g, pictures, score="msp", resize="crop", channel_order="rgb", device="cpu")
    again = guard.fit(g, pictures, score="msp", device="cpu")
    assert again.manifest.preprocess == g.manifest.preprocess
