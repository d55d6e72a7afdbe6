"""``guard predict``: what it prints for images, and what a mistake meets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guard.artefact.files import write_onnx
from tests.guard.cli.conftest import Command
from tests.serving.conftest import colour_graph, colour_manifest, expected_score


def test_predict_prints_json_that_agrees_with_the_formula(run: Command, model: Path, images: Path) -> None:
    result = run("predict", model, images / "red.png", images / "black.png", "--json")
    red, black = json.loads(result.out)
    assert result.code == 0
    assert red["image"] == str(images / "red.png")
    assert (red["class_name"], red["is_ood"], black["is_ood"]) == ("red", False, True)
    assert red["ood_score"] == pytest.approx(expected_score((255, 0, 0)), abs=1e-5)
    assert black["ood_score"] == pytest.approx(-np.log(3), abs=1e-5)
    assert 0 < black["p_value"] < red["p_value"] <= 1


@pytest.mark.parametrize("command", ["predict", "calibrate", "eval"])
def test_what_onnx_runtime_cannot_run_is_run_in_another_runtime(command: str, run: Command, tmp_path: Path) -> None:
    """As the error about a bf16 file on a CPU advises."""
    path = tmp_path / "bf16.onnx"
    write_onnx(path, colour_graph(), colour_manifest().model_copy(update={"precision": "bf16"}))
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for shade in range(150, 250, 10):
            colour = tuple(shade if i == channel else 0 for i in range(3))
            Image.new("RGB", (8, 8), colour).save(tmp_path / "data" / name / f"{shade}.png")
    data = ["--id", tmp_path / "data"] if command == "eval" else [tmp_path / "data"]
    refused = run(command, path, *data)
    assert refused.code == 2
    assert "load it with runtime='openvino'" in refused.err
    done = run(command, path, *data, "--runtime", "openvino", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_predict_takes_a_folder_and_prints_a_table(run: Command, model: Path, images: Path) -> None:
    result = run("predict", model, images)
    rows = [line.split() for line in result.out.splitlines()]
    assert result.code == 0
    assert rows[0] == ["image", "label", "probability", "ood_score", "p", "flag"]
    assert [row[0] for row in rows[1:4]] == [str(images / n) for n in ("black.png", "deep/blue.jpg", "red.png")]
    assert [row[-1] == "OOD" for row in rows[1:4]] == [True, False, False]
    assert " ".join(rows[4]).startswith("1 of 3 flagged (ood_score > -4) by colours@")


def test_output_that_is_not_for_a_terminal_has_no_colour_codes_and_no_cut_paths(
    run: Command, model: Path, images: Path
) -> None:
    result = run("predict", model, images)
    assert "\x1b" not in result.out
    assert "…" not in result.out
    assert str(images / "deep" / "blue.jpg") in result.out


def test_a_name_in_brackets_is_not_markup(run: Command, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "[red] :cat:.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    assert str(path) in run("predict", model, path).out


def test_predict_with_another_threshold(run: Command, model: Path, images: Path) -> None:
    answers = json.loads(run("predict", model, images, "--threshold", "-20", "--json").out)
    assert [a["is_ood"] for a in answers] == [True, True, True]
    assert {a["threshold"] for a in answers} == {-20.0}


def test_an_uncalibrated_guard_prints_null_and_not_infinity(run: Command, tmp_path: Path, images: Path) -> None:
    path = tmp_path / "guard.onnx"
    write_onnx(path, colour_graph(), colour_manifest(calibrated=False))
    text = run("predict", path, images / "red.png", "--json").out
    (answer,) = json.loads(text, parse_constant=pytest.fail)
    assert answer["threshold"] is None
    assert answer["p_value"] is None


def test_a_file_that_is_no_image_is_named_and_the_others_are_answered(run: Command, model: Path, images: Path) -> None:
    result = run("predict", model, images / "notes.txt", images / "red.png", "--json")
    assert result.code == 2
    assert [a["class_name"] for a in json.loads(result.out)] == ["red"]
    assert result.err.startswith(f"error: {images / 'notes.txt'}: not an image")
    assert result.err.count("\n") == 1


def test_predict_on_more_images_than_a_batch_keeps_their_order(run: Command, model: Path, tmp_path: Path) -> None:
    for level in range(150):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / f"{level:03d}.png")
    answers = json.loads(run("predict", model, tmp_path, "--json").out)
    assert [Path(a["image"]).stem for a in answers] == [f"{level:03d}" for level in range(150)]
    expected = [expected_score((level, 0, 0)) for level in range(150)]
    np.testing.assert_allclose([a["ood_score"] for a in answers], expected, atol=1e-5)


def test_a_missing_image_and_a_folder_without_images_are_named(run: Command, model: Path, tmp_path: Path) -> None:
    assert "error: no such image: absent.png" in run("predict", model, "absent.png").err
    (tmp_path / "notes.txt").write_text("x")
    assert f"error: no image files in {tmp_path}; looked for" in run("predict", model, tmp_path).err


def test_what_is_not_read_in_a_folder_is_counted_and_named(
    run: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(images, tmp_path / "mine")
    for name in ("a.heic", "b.HEIC", "c.svg"):
        (images / name).write_bytes(b"x")
    (images / "@eaDir").mkdir()
    (images / "@eaDir" / "thumb.png").write_bytes(b"x")
    result = run("predict", model, images, "--json")
    assert result.code == 0
    assert [Path(a["image"]).name for a in json.loads(result.out)] == ["black.png", "blue.jpg", "red.png"]
    assert "3 of 6 files in" in result.err
    assert "are not read: 2 .heic, 1 .svg; convert them to PNG or JPEG" in result.err
    assert "with images in them: 1 @eaDir" in result.err


def test_a_broken_link_in_a_folder_is_named_and_the_others_are_answered(
    run: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(images, tmp_path / "mine")
    (images / "gone.png").symlink_to("nothing.png")
    result = run("predict", model, images, "--json")
    assert result.code == 2
    assert len(json.loads(result.out)) == 3
    assert result.err == f"error: no such image: {images / 'gone.png'}\n"


def test_paths_are_at_home_where_they_say_so_and_never_empty(
    run: Command, model: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(images))
    assert len(json.loads(run("predict", model, "~/red.png", "~/deep", "--json").out)) == 2
    monkeypatch.chdir(images)
    for words in (("predict", model, ""), ("eval", model, "--id", ""), ("predict", model, "x" * 300 + ".png")):
        result = run(*words)
        assert result.code == 2
        assert "is empty" in result.err or "too long" in result.err
