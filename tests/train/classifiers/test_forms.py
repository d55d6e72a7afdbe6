"""The forms in which people have torch models, and the files that are refused with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import guard
from guard.errors import ModelError
from tests.conftest import Arrays
from tests.train.models import sequential

FIT: dict[str, Any] = {"device": "cpu", "mean": (0.5,) * 3, "std": (0.2,) * 3}
IMAGES = torch.zeros(2, 3, 16, 16)


def normed() -> nn.Module:
    """A last layer whose weight was computed, and has no copy."""
    model = sequential().eval()
    model[-1] = nn.utils.weight_norm(model[-1])
    model(IMAGES)
    return model


FORMS: dict[str, Callable[[], Any]] = {
    "traced": lambda: torch.jit.trace(sequential().eval(), IMAGES),
    "frozen": lambda: torch.jit.freeze(torch.jit.trace(sequential().eval(), IMAGES)),
    "compiled": lambda: torch.compile(sequential()),
    "exported": lambda: torch.export.export(
        sequential().eval(), (IMAGES,), dynamic_shapes=({0: torch.export.Dim("n")},)
    ),
    "weight norm": normed,
    "double": lambda: sequential().double(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMS)
def test_every_form_answers_as_the_module_does(name: str, four: Arrays) -> None:
    expected = guard.fit(sequential(), four, **FIT).predict(four[0][:20]).ood_score
    found = guard.fit(FORMS[name](), four, **FIT).predict(four[0][:20]).ood_score
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_says_what_it_cannot_do(four: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    g = guard.fit(FORMS["traced"](), four, **FIT)
    assert "can be neither exported to ONNX nor read inside" in caplog.text
    with pytest.raises(ModelError, match=r"score 'knn' needs .*; TorchScript shows no layer inside"):
        guard.fit(FORMS["traced"](), four, score="knn", **FIT)
    with pytest.raises(guard.errors.ExportError, match="TorchScript module cannot be exported"):
        guard.export(g, tmp_path / "g.onnx")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda: sequential().to("meta"), "on the meta device, where weights have no values"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "lazy layers that were never run"),
    ],
)
def test_weights_without_values_are_refused(model: Callable[[], Any], sentence: str, four: Arrays) -> None:
    with pytest.raises(ModelError, match=sentence):
        guard.fit(model(), four, **FIT)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("net.pt", "is a file of torch, .*torch.jit.load"),
        ("net.PTH", "is a file of torch"),
        ("net.h5", "is a Keras or TensorFlow model; write it as ONNX"),
        ("net.tflite", "is a TensorFlow Lite model"),
        ("net.safetensors", "holds weights without their network; give both: .*--checkpoint"),
        ("net.xyz", "is not a model of a known kind"),
    ],
)
def test_a_file_of_another_kind_says_what_to_give(name: str, sentence: str, four: Arrays, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=sentence) as caught:
        guard.fit(tmp_path / name, four, **FIT)
    assert len(str(caught.value)) < 300


def grey_timm() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("resnet10t", num_classes=4, in_chans=1).eval()
    return model


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("made", [grey, grey_timm])
def test_a_grey_model_is_known_by_its_first_convolution(made: Callable[[], nn.Module], four: Arrays) -> None:
    options = {"device": "cpu", "mean": 0.5, "std": 0.2, "image_size": 32}
    assert guard.fit(made(), four, **options).manifest.preprocess.channels == 1
    with pytest.raises(ModelError, match=r"say in_chans=1, for that is what its first convolution takes"):
        guard.fit(made(), four, in_chans=3, **options)
