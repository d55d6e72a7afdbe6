"""``mirror=True``: means of what an image and its mirror image show, in runs, files and engines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from export.bare import bare_classifier
from export.precision.integers import Quantiser
from export.to_onnx import onnx_bytes
from export.to_tensorrt import build_engine
from guard.errors import ConfigError, GuardError
from guard.graph.mirror import with_mirror
from guard.runtimes.onnx_session import OnnxSession
from guard.scores import create_score, get_score, list_scores
from guard.scores.base import ScoreOptions
from tests.conftest import Arrays
from tests.guard.graph.test_turns import Pixels, pictures
from tests.random_guards import make_guard

MIRROR = [
    n
    for n in list_scores()
    if issubclass(get_score(n).Options, ScoreOptions) and n not in ("reject_class", "multilayer_mahalanobis")
]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
SHORT: dict[str, Any] = {"backbone": "wrn10_2", "epochs": 1, "batch_size": 32, "device": "cpu"}


@pytest.mark.parametrize("n", [1, 4])
def test_one_pass_shows_the_means_of_two(n: int) -> None:
    classifier, images = Pixels(3), pictures(n)
    x = images.permute(0, 3, 1, 2) / 255
    shown = with_mirror(classifier, x, create_score("energy"))
    assert classifier.calls == 1
    other = torch.from_numpy(np.flip(images.numpy(), 2).copy()).permute(0, 3, 1, 2) / 255
    for mean, one, two in zip(shown[:2], classifier(x)[:2], classifier(other)[:2], strict=True):
        torch.testing.assert_close(mean, (one + two) / 2)
    assert shown.feature_map is None


def test_what_reads_more_than_features_and_logits_has_no_such_option() -> None:
    others = {name for name in list_scores() if not issubclass(get_score(name).Options, ScoreOptions)}
    assert others == {"gram", "odin", "rejection", "rotation"}
    with pytest.raises(ConfigError, match="has no option 'mirror'"):
        create_score("odin", mirror=True)


@pytest.mark.parametrize("name", MIRROR)
def test_every_score_reads_the_means_and_an_image_is_scored_as_its_mirror_image(name: str) -> None:
    g = make_guard(name, "linear", {"mirror": True})
    plain = make_guard(name, "linear")
    assert "mirror image" in g.module.score.needs
    images, threshold = torch.from_numpy(IMAGES), torch.tensor(0.0)
    with torch.no_grad():
        label, probabilities, score, _ = g.module(images, threshold)
        torch.testing.assert_close(g.module(images.flip(2), threshold)[2], score)
        one, two = plain.module.outputs(images), plain.module.outputs(images.flip(2))
        features, logits = (one.features + two.features) / 2, (one.logits + two.logits) / 2
        torch.testing.assert_close(plain.module.score(features, logits), score)
    torch.testing.assert_close(probabilities, logits.softmax(-1))
    assert label.equal(logits.argmax(-1))


def test_the_graph_decides_as_torch_in_float32_and_int8_and_an_engine_is_built() -> None:
    pytest.importorskip("tensorrt_rtx")
    g = make_guard("energy+vim", "linear", {"mirror": True})
    graph = onnx_bytes(g.module, g.manifest)
    expected = g.runtime.run(IMAGES, g.threshold)
    for n in (1, 5, 12):
        found = OnnxSession(graph, device="cpu").run(IMAGES[:n], g.threshold)
        np.testing.assert_allclose(found.ood_score, expected.ood_score[:n], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.probabilities, expected.probabilities[:n], rtol=1e-4, atol=1e-5)
    lowered = Quantiser(graph, [IMAGES], "cpu").quantised()
    labels = OnnxSession(lowered, device="cpu").run(IMAGES, g.threshold).label
    assert (labels == expected.label).mean() > 0.7
    bare, _, _ = bare_classifier(graph)
    assert bare
    assert build_engine(graph, g.manifest, max_batch=4)


@pytest.fixture(scope="module")
def trained(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> tuple[guard.Guard, Path]:
    """With augmentation that shows no mirror image."""
    folder = tmp_path_factory.mktemp("mirror") / "run"
    return guard.train(four, **SHORT, augment="crop", score_options={"mirror": True}, out=folder), folder


def test_a_run_keeps_it_and_its_file_decides_the_same(
    trained: tuple[guard.Guard, Path], four: Arrays, tmp_path: Path
) -> None:
    g, folder = trained
    again = guard.Guard.from_pretrained(folder)
    assert again.manifest.score_options["mirror"] is True
    images = four[0][:20]
    np.testing.assert_array_equal(again.predict(images).ood_score, g.predict(images).ood_score)
    flipped = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(again.predict(flipped).ood_score, g.predict(images).ood_score, rtol=1e-4, atol=1e-5)
    exported = guard.load(guard.export(again, tmp_path / "guard.onnx"), device="cpu")
    np.testing.assert_array_equal(exported.predict(images).is_ood, g.predict(images).is_ood)
    lowered = guard.load(guard.export(again, tmp_path / "int8.onnx", precision="int8", data=four), device="cpu")
    np.testing.assert_allclose(
        lowered.predict(flipped).ood_score, lowered.predict(images).ood_score, rtol=1e-4, atol=1e-5
    )
    assert (lowered.predict(images).label == g.predict(images).label).mean() > 0.8


def test_a_training_without_mirror_images_says_so(four: Arrays, caplog: pytest.LogCaptureFixture) -> None:
    small = four[0][:160], four[1][:160]
    with caplog.at_level(logging.WARNING, "ood_guard"):
        guard.train(small, **SHORT, augment="crop", score_options={"mirror": True})
        assert "augment='crop' the network is trained on none" in caplog.text
        caplog.clear()
        guard.train(small, **SHORT, augment="crop+flip", score_options={"mirror": True})
    assert "mirror" not in caplog.text


def test_the_recommended_score_takes_it_beside_its_own_options() -> None:
    from train.methods import get_method
    from train.runs.resolve import score_for

    method = get_method("recommended")
    score = score_for(method(method.Options()), None, {"mirror": True})
    assert score.mirrored
    assert len(score.parts()) == 3


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "energy+vim",
            {"part_options": {"vim": {"mirror": True}}},
            "is for all parts, not for 'vim' alone",
        ),
        ("energy+rotation", {"mirror": True}, "cannot have mirror=True with 'rotation'"),
        ("energy+rejection", {"mirror": True}, "cannot have mirror=True with 'rejection'"),
    ],
)
def test_parts_are_looked_at_alike(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        create_score(name, **options)


def test_an_onnx_file_shows_no_mirror_image(trained: tuple[guard.Guard, Path], four: Arrays, tmp_path: Path) -> None:
    import onnx

    exported = guard.export(trained[0], tmp_path / "guard.onnx")
    bare, _, _ = bare_classifier(onnx.load(exported).SerializeToString())
    (tmp_path / "net.onnx").write_bytes(bare)
    with pytest.raises(GuardError, match="shows only logits, features and weights"):
        guard.fit(
            tmp_path / "net.onnx", four, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=16, score_options={"mirror": True}
        )
