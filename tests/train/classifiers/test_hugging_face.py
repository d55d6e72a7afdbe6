"""guard.fit on Hugging Face image classifiers: the same answers as theirs, their class names, their folders."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

import guard
from guard.errors import ConfigError, DataError, MissingExtraError, ModelError
from guard.scores import get_score, list_scores
from tests.train.classifiers.hf_models import MODELS, NAMES, coloured, made, processor, taught, two_heads
from train.classifiers.hugging_face import is_one

FITTED = [name for name in list_scores() if not get_score(name).trained_by and name != "reject_class"]
WIDTHS = {"dinov2": 64, "mobilenet_v2": 1280}  # CLS beside the mean of the patches; else 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 images of each colour; class folders sort as blue, green, grey, red."""
    root = tmp_path_factory.mktemp("colours")
    for name in NAMES:
        (root / name).mkdir()
        for i, image in enumerate(coloured(name, 64)):
            Image.fromarray(image).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def vit() -> Any:
    return taught(made("vit"), processor())


@pytest.fixture(scope="module")
def saved(vit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that transformers writes."""
    folder = tmp_path_factory.mktemp("hf") / "vit"
    vit.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def fit(model: Any, data: Any, **options: Any) -> guard.Guard:
    return guard.fit(model, data, **{"score": "mahalanobis", "device": "cpu", **options})


@pytest.mark.parametrize("name", MODELS)
def test_a_guard_answers_as_the_model_does(name: str, folders: Path, tmp_path: Path) -> None:
    """From its own image processor to its own softmax; and again from the run folder, without the model."""
    process = processor()
    model = taught(made(name), process)
    g = fit(model, folders, processor=process, score="vim", out=tmp_path)
    images = [image for colour in NAMES for image in coloured(colour, 3, (41, 67))]
    with torch.no_grad():
        expected = model(**process(images, return_tensors="pt")).logits.softmax(-1).numpy()
    verdicts = g.predict(images)
    np.testing.assert_allclose(verdicts.probabilities, expected, rtol=1e-3, atol=1e-5)
    assert g.class_names == NAMES
    assert g.manifest.metrics["test_accuracy"] > 0.7  # in the data's order of classes: 0.25
    assert g.module.classifier.num_features == WIDTHS.get(name, 32)
    again = guard.load(tmp_path, device="cpu").predict(images)
    np.testing.assert_allclose(again.ood_score, verdicts.ood_score, rtol=1e-5)
    np.testing.assert_allclose(again.probabilities, verdicts.probabilities, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_it_exports(name: str, folders: Path, tmp_path: Path) -> None:
    g = fit(taught(made(name), processor()), folders, processor=processor())
    loaded = guard.load(guard.export(g, tmp_path / "guard.onnx"), device="cpu")
    images = [image for colour in NAMES for image in coloured(colour, 2)]
    np.testing.assert_allclose(loaded.predict(images).ood_score, g.predict(images).ood_score, rtol=1e-4)
    assert [v.class_name for v in loaded.predict(images)] == [colour for colour in NAMES for _ in range(2)]


# ---------------------------------------------------------------------------------------------------- class names


def test_classes_are_matched_by_name_and_evaluation_agrees(vit: Any, folders: Path) -> None:
    g = fit(vit, folders, processor=processor(), test=40)
    assert g.manifest.metrics["test_accuracy"] == 1
    own = guard.evaluate(g, id=folders, bootstrap=0)
    assert own.to_dict()["id"]["accuracy"] == 1
    assert own.to_dict()["id"]["images"] == 40


@pytest.mark.parametrize("score", FITTED)
def test_data_may_lack_classes_of_the_model(
    score: str, vit: Any, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("grey", "red"):
        (tmp_path / name).symlink_to(folders / name)
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        k = {"k": 5} if score in ("knn", "nnguide") else {"variant": "s"} if score == "ash" else {}
        g = fit(vit, tmp_path, processor=processor(), score=score, score_options=k)
    assert "no images of 2 of the model's 4 classes (blue, green)" in caplog.text
    assert g.class_names == NAMES
    assert g.manifest.metrics["test_accuracy"] == 1
    assert np.isfinite(g.predict(coloured("blue", 4)).ood_score).all()


def test_a_class_the_model_does_not_know_is_refused(vit: Any, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "red").symlink_to(folders / "red")
    (tmp_path / "violet").symlink_to(folders / "blue")
    with pytest.raises(DataError, match="that the model does not know: violet; the model's are red, blue, grey"):
        fit(vit, tmp_path, processor=processor())


def test_unnamed_logits_take_the_names_of_the_data(folders: Path) -> None:
    config = made("vit").config.to_dict()
    model = hf.ViTForImageClassification(
        hf.ViTConfig(**{k: v for k, v in config.items() if "label" not in k}, num_labels=4)
    )
    assert model.config.id2label[3] == "LABEL_3"
    assert fit(model, folders, processor=processor()).class_names == ("blue", "green", "grey", "red")


# -------------------------------------------------------------------------------------------------- the processor


def test_a_processor_that_cannot_be_had_is_refused_and_can_be_replaced_by_numbers(vit: Any, folders: Path) -> None:
    with pytest.raises(ModelError, match="do_color_quantize=True"):
        fit(vit, folders, processor=hf.ImageGPTImageProcessorPil())
    with pytest.raises(ConfigError, match="says what the model's input is; omit mean, std, or give no processor"):
        fit(vit, folders, processor=processor(), mean=(0.5,) * 3, std=(0.5,) * 3)
    g = fit(vit, folders, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    assert g.manifest.normalisation.mean == (0.5, 0.4, 0.3)


def test_without_a_processor_the_config_has_the_size(vit: Any, folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        g = fit(vit, folders)
    assert g.manifest.preprocess.height == 32
    assert "no image processor was given or found beside the ViTForImageClassification; give processor=" in caplog.text
    assert "mean= and std= not given" in caplog.text


def test_only_these_models_take_a_processor(folders: Path) -> None:
    with pytest.raises(ConfigError, match="processor= is for Hugging Face models; give image_size=, mean= and std="):
        fit(torch.nn.Linear(2, 2), folders, processor=processor())


# ------------------------------------------------------------------------------------------------------- folders


def test_a_folder_brings_model_processor_and_names(vit: Any, saved: Path, folders: Path) -> None:
    g = fit(saved, folders)
    expected = fit(vit, folders, processor=processor())
    assert g.manifest.preprocess == expected.manifest.preprocess
    assert g.manifest.normalisation == expected.manifest.normalisation
    images = coloured("red", 5) + coloured("green", 5)
    np.testing.assert_array_equal(g.predict(images).ood_score, expected.predict(images).ood_score)
    loaded = hf.AutoModelForImageClassification.from_pretrained(saved)  # it knows where it was loaded from
    assert fit(loaded, folders).manifest.normalisation == expected.manifest.normalisation
    assert fit(vit, folders, processor=saved).manifest.preprocess == expected.manifest.preprocess


def test_the_command_line_takes_a_folder(saved: Path, folders: Path, tmp_path: Path) -> None:
    from guard import cli

    with pytest.raises(SystemExit) as end:
        cli.main(["fit", str(folders), "--model", str(saved), "--out", str(tmp_path / "run"), "--no-export"])
    assert not end.value.code
    assert guard.load(tmp_path / "run", device="cpu").class_names == NAMES


def test_a_guard_gets_another_score(saved: Path, folders: Path, tmp_path: Path) -> None:
    fit(saved, folders, out=tmp_path / "a")
    again = fit(tmp_path / "a", folders, score="msp", out=tmp_path / "b")
    assert again.class_names == NAMES
    assert again.manifest.metrics["test_accuracy"] == 1
    loaded = guard.load(tmp_path / "b", device="cpu")
    np.testing.assert_allclose(
        loaded.predict(coloured("red", 3)).ood_score, again.predict(coloured("red", 3)).ood_score
    )


def test_pickled_weights_are_refused(vit: Any, folders: Path, tmp_path: Path) -> None:
    vit.config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds no model\.safetensors \(found: config\.json\)"):
        fit(tmp_path, folders)
    torch.save(vit.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds pickled weights \(pytorch_model\.bin\), which can run code .*convert"):
        fit(tmp_path, folders)


def test_a_hub_id_is_fetched_as_safetensors(vit: Any, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetched(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return vit

    monkeypatch.setattr(hf.AutoModelForImageClassification, "from_pretrained", fetched)
    monkeypatch.setattr(hf.AutoImageProcessor, "from_pretrained", lambda name, **_: processor())
    assert fit("someone/colours", folders).class_names == NAMES
    assert asked == [("someone/colours", {"use_safetensors": True})]


def test_a_hub_that_cannot_be_reached_is_one_sentence(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("We couldn't connect to the hub. Check your connection\nor see https://example.org")

    monkeypatch.setattr(hf.AutoModelForImageClassification, "from_pretrained", refused)
    with pytest.raises(ModelError) as caught:
        fit("someone/colours", folders)
    assert str(caught.value) == (
        "no image classifier can be loaded from 'someone/colours' (no folder here, so taken for a hub id): "
        "We couldn't connect to the hub; without the hub, give the folder that model.save_pretrained(folder) wrote"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("someone/model-1.5", True), ("resnet18", False), ("a/b/c", False), ("runs/guard.onnx", False), ("./x", False)],
)
def test_what_is_taken_for_a_hub_id(name: str, expected: bool) -> None:
    assert is_one(name) is expected


# -------------------------------------------------------------------------------------- what cannot be guarded so


def test_two_heads_need_their_features_named_and_have_no_last_layer(folders: Path) -> None:
    model = two_heads()
    with pytest.raises(ModelError, match=r"DeiTForImageClassificationWithTeacher, 'model\.distill.*features="):
        fit(model, folders, processor=processor())
    g = fit(model, folders, processor=processor(), features="model.deit.layernorm")
    assert g.module.classifier.num_features == 32
    with pytest.raises(ModelError, match="score 'vim' needs the weights of a last linear layer; use 'knn'"):
        fit(model, folders, processor=processor(), features="model.deit.layernorm", score="vim")


def test_a_model_without_logits(folders: Path) -> None:
    with pytest.raises(ModelError, match=r"ViTModel answers with a BaseModelOutput.* load it with AutoModelForImageCl"):
        fit(hf.ViTModel(made("vit").config), folders, processor=processor())


class Own(hf.ViTForImageClassification):
    """A user's subclass, which transformers does not know."""


def test_a_class_of_ones_own_is_loaded_with_the_model(vit: Any, folders: Path, tmp_path: Path) -> None:
    model = Own(vit.config)
    model.load_state_dict(vit.state_dict())
    g = fit(model, folders, processor=processor(), out=tmp_path)
    with pytest.raises(ModelError, match=r"wraps Own, which transformers .* does not have; pass the model"):
        guard.load(tmp_path)
    loaded = guard.Guard.from_pretrained(tmp_path, device="cpu", model=Own(vit.config))
    np.testing.assert_allclose(loaded.predict(coloured("red", 3)).ood_score, g.predict(coloured("red", 3)).ood_score)


def test_a_run_folder_without_transformers_says_what_to_install(
    vit: Any, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(vit, folders, processor=processor(), out=tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"transformers .*is not installed; run: pip install 'ood-guard\[hf\]'"):
        guard.load(tmp_path)
