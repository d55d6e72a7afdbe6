"""An image is judged alike whatever its batch, its neighbours and chance; what breaks that is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

import guard
from guard.errors import ModelError
from tests.conftest import Arrays
from tests.train.classifiers.onnx_nets import FILES, WB, File, build, node
from tests.train.models import Answering, Dropped, sequential

FIT: dict[str, Any] = {"device": "cpu", "mean": (0.5,) * 3, "std": (0.2,) * 3}


class AlwaysOn(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True)


class Between(nn.Module):
    """Dropout between two layers, by a function."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.block, self.p = Dropped(), p

    def forward(self, x: Tensor) -> Tensor:
        b = self.block
        return b.last(F.dropout(b.hidden(b.features(x)), self.p, True))


class Counting(nn.Module):
    """Its answer changes with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.calls = sequential(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x) + torch.arange(4) * self.calls


def dropped(p: float) -> nn.Module:
    model = Dropped()
    model.drop = AlwaysOn(p)
    return model


def unnormalised() -> nn.Module:
    model = sequential()
    model[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return model


def training_norm() -> nn.Module:
    class Training(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, training=True)

    model = sequential()
    model[1] = Training(8)
    return model


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Dropped().eval(), {nn.Linear}, dtype=torch.qint8)


UNSTEADY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout": (lambda: dropped(0.5), r"other answers at each pass: layer 'drop' \(AlwaysOn\) is random"),
    "a little dropout": (lambda: dropped(0.05), r"layer 'drop' \(AlwaysOn\) is random"),
    "dropout by a function": (lambda: Between(0.2), r"the code of Between is random"),
    "noise": (lambda: Answering(lambda f: f + 0.1 * torch.randn_like(f)), r"the code of Answering is random"),
    "state": (Counting, r"other answers at each pass"),
    "no running statistics": (unnormalised, r"layer '1' \(BatchNorm2d\) computes over the whole batch.*track_running"),
    "norm in training mode": (training_norm, r"layer '1' \(Training\) computes over the whole batch"),
    "softmax over the batch": (
        lambda: Answering(lambda f: f + f.softmax(0)),
        "the code of Answering computes over the",
    ),
    "ranks in the batch": (lambda: Answering(lambda f: f - f.flip(0)), "computes over the whole batch"),
}


@pytest.mark.parametrize("name", UNSTEADY)
def test_an_unsteady_model_is_refused_by_its_layer(name: str, four: Arrays) -> None:
    make, sentence = UNSTEADY[name]
    with pytest.raises(ModelError, match=sentence) as caught:
        guard.fit(make(), four, **FIT)
    assert len(str(caught.value)) < 300


@pytest.mark.filterwarnings("ignore")
def test_int8_scales_of_the_batch_are_refused(four: Arrays) -> None:
    with pytest.raises(ModelError, match=r"layer 'hidden' \(quantized.Linear\) computes over the whole batch.*static"):
        guard.fit(quantised(), four, **FIT)


def test_callables_are_asked_too(four: Arrays) -> None:
    body = sequential()[:-1].eval()
    with pytest.raises(ModelError, match="is random at inference"):
        guard.fit((lambda x: F.dropout(body(x), 0.5, True), sequential()[-1]), four, score="knn", **FIT)


def instance_norm() -> nn.Module:
    model = sequential()
    model[1] = nn.InstanceNorm2d(8)
    return model


class HalfInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = sequential()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(x)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.mul_(2).sub_(1))


@pytest.mark.parametrize("make", [instance_norm, HalfInside, InPlace], ids=["instance norm", "autocast", "in place"])
def test_what_is_steady_passes(make: Callable[[], nn.Module], four: Arrays) -> None:
    g = guard.fit(make(), four, score="knn", **FIT)
    together = g.predict(four[0][:9]).ood_score
    alone = [float(g.predict(image).ood_score[0]) for image in four[0][:9]]
    np.testing.assert_allclose(together, alone, rtol=2e-2, atol=1e-3)
    odin = guard.fit(make(), four, score="odin", **FIT)  # looks twice at the same images
    assert np.isfinite(odin.threshold)


def test_bfloat16_inside_is_said_before_and_at_the_export(
    four: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    g = guard.fit(HalfInside(), four, score="vim", **FIT)
    assert "computes in bfloat16" in caplog.text
    with pytest.raises(guard.errors.ExportError, match=r"bfloat16 inside .*leave autocast out"):
        guard.export(g, tmp_path / "g.onnx")


def test_an_image_alone_must_be_taken(four: Arrays) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = sequential()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 1:
                raise RuntimeError("Expected more than 1 value per channel when training")
            return self.network(x)

    with pytest.raises(ModelError, match=r"takes 32 images together and not one alone .*any number"):
        guard.fit(Several(), four, **FIT)


# ------------------------------------------------------------------------------------------------------------- ONNX

RATE = {"rate": np.array(0.3, np.float32), "on": np.array(True)}
NODES: dict[str, tuple[File, str]] = {
    "dropout in training mode": (
        File([node("Dropout", "flat rate on", "d"), node("Gemm", "d weight bias", "logits", transB=1)], {**WB, **RATE}),
        "Dropout 'd' is random at inference",
    ),
    "noise": (
        File([node("Gemm", "flat weight bias", "z", transB=1), node("RandomNormalLike", "z", "n"),
              node("Add", "z n", "logits")], WB),
        "RandomNormalLike 'n' is random at inference",
    ),
    "dynamic quantisation": (
        File([node("DynamicQuantizeLinear", "flat", "q scale zero"), node("DequantizeLinear", "q scale zero", "f"),
              node("Gemm", "f weight bias", "logits", transB=1)], WB),
        r"is quantised dynamically \(DynamicQuantizeLinear 'q'\).*static quantisation",
    ),
    "batch norm in training mode": (
        File([node("BatchNormalization", "flat one zero zero one", "d v w", training_mode=1),
              node("Gemm", "d weight bias", "logits", transB=1)],
             {**WB, "one": np.ones(12, np.float32), "zero": np.zeros(12, np.float32)}),
        "BatchNormalization 'd' is in training mode",
    ),
    "softmax over the batch": (
        File([node("Gemm", "flat weight bias", "z", transB=1), node("Softmax", "z", "s", axis=0),
              node("Add", "z s", "logits")], WB),
        "depends on the images beside it .*: Softmax 's' computes over the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NODES)
def test_an_unsteady_graph_is_refused_by_its_node(name: str, four: Arrays, tmp_path: Path) -> None:
    file, sentence = NODES[name]
    onnx.save(build(file), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=sentence) as caught:
        guard.fit(tmp_path / "net.onnx", four, **FIT)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_dropout_that_is_off_passes(four: Arrays, tmp_path: Path) -> None:
    model = build(NODES["dropout in training mode"][0])
    for initializer in model.graph.initializer:
        if initializer.name == "on":
            initializer.CopyFrom(numpy_helper.from_array(np.array(False), "on"))
    onnx.save(model, tmp_path / "net.onnx")
    onnx.save(build(FILES["gemm"]), tmp_path / "plain.onnx")
    a, b = (guard.fit(tmp_path / name, four, **FIT).threshold for name in ("net.onnx", "plain.onnx"))
    assert a == pytest.approx(b)
