"""At the command line, a score that no graph can hold keeps its run folder and says why there is no guard.onnx."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.guard.cli.conftest import Command


def test_a_run_with_odin_is_kept_used_and_not_exported(
    run: Command, four: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    data, folder = tmp_path / "images", tmp_path / "run"
    for c in range(4):
        (data / str(c)).mkdir(parents=True)
        for i, image in enumerate(four[0][four[1] == c][:20]):
            Image.fromarray(image).save(data / str(c) / f"{i}.png")
    made = run(
        "train", data, "--score", "odin", "--backbone", "wrn16_2", "--epochs", 1, "--out", folder, "--device", "cpu"
    )
    assert made.code == 0
    assert "not exported" in made.out
    assert "it needs the gradient" in made.out
    assert "msp with temperature=1000" in made.out
    assert f"guard predict {folder} IMAGE" in made.out
    assert not (folder / "guard.onnx").exists()

    fitted = json.loads(run("fit", data, "--model", folder, "--score", "odin", "--out", tmp_path / "fit", "--json").out)
    assert fitted["onnx"] is None
    assert "gradient" in fitted["not_exported"]

    judged = run("predict", folder, data / "0" / "0.png")
    assert judged.code in (0, 1)
    assert "ood_score" in judged.out
    assert run("eval", folder, "--id", data, "--ood", f"same={data}").code == 0

    refused = run("export", folder, tmp_path / "guard.onnx")
    assert refused.code == 2
    assert "score 'odin' cannot be exported" in refused.err
    assert not (tmp_path / "guard.onnx").exists()
