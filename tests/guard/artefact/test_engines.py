"""An engine of another GPU or TensorRT is built again from the ONNX file beside it. CUDA and TensorRT are played."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from export.timings import Timings
from guard.artefact.files import engine_manifest_path, engine_source_path, read_pair, write_onnx
from guard.errors import ArtefactDamagedError, ConfigError, EngineMismatchError, MissingExtraError
from guard.errors import RuntimeUnavailableError as Unavailable
from tests.fake_tensorrt import GPU, Config, Cuda, install, tensorrt
from tests.guard.artefact.conftest import OTHER, Machine
from tests.serving.conftest import colour_graph, colour_manifest

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def path(on: Machine, source: Path, tmp_path: Path) -> Path:
    """An engine that was built on `GPU`."""
    on()
    return guard.export(source, tmp_path / "engines" / "guard.engine", max_batch=8, min_batch=2, opt_batch=4)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_export_keeps_what_it_was_built_of(path: Path, source: Path) -> None:
    beside = ["guard.engine", "guard.engine.json", "guard.engine.onnx", "guard.engine.timing"]
    assert names(path.parent) == beside
    manifest = read_pair(path, engine_manifest_path(path))[1]
    facts = manifest.engine
    assert facts is not None
    assert (facts.min_batch, facts.opt_batch, facts.max_batch, facts.gpu) == (2, 4, 8, GPU)
    assert facts.onnx_sha256 == guard.load(engine_source_path(path), device="cpu").manifest.weights_sha256
    assert manifest.parity is not None  # it was run here
    expected = guard.load(source, device="cpu").predict(IMAGES)
    np.testing.assert_array_equal(guard.load(path).predict(IMAGES).ood_score, expected.ood_score)
    assert names(path.parent) == beside  # nothing was built


def test_on_another_machine_it_is_built_again_once(path: Path, source: Path, on: Machine, caplog: Any) -> None:
    expected = guard.load(source, device="cpu").predict(IMAGES)
    built: list[int] = []
    for gpu, version, why in (
        (OTHER, "10.9.0.34", f"the engine was built for {GPU}, and this GPU is {OTHER} (SM90)"),
        (GPU, "10.12.1.2", "the engine was built with tensorrt 10.9.0.34, installed is 10.12.1.2"),
        (GPU, "11.0.0", "the engine was built with tensorrt 10.9.0.34, installed is 11.0.0"),
    ):
        for times in (1, 0):
            on(gpu, version, typed_by_flag=not version.startswith("11"))
            caplog.clear()
            with caplog.at_level(logging.INFO, logger="ood_guard"):
                g = guard.load(path)
            assert caplog.text.count("which can take minutes") == times
            assert (why in caplog.text) == bool(times)
            np.testing.assert_array_equal(g.predict(IMAGES).is_ood, expected.is_ood)
            facts = g.manifest.engine
            assert facts is not None
            assert (facts.gpu, facts.version, facts.min_batch, facts.opt_batch, facts.max_batch) == (
                gpu,
                version,
                2,
                4,
                8,
            )
            built.append(times)
    assert len(list(path.parent.glob("guard-nvidia-other-sm90-tensorrt-10.9.0.34-*.engine"))) == 1
    on()
    caplog.clear()
    guard.load(path)
    assert "minutes" not in caplog.text


def test_what_is_built_again_has_the_engines_calibration(path: Path, on: Machine) -> None:
    loose = guard.load(path).calibrate(IMAGES, alpha=0.5)
    loose.save(path)
    moved = path.parent.parent / "moved" / "guard.engine"
    guard.load(path).save(moved)
    flagged = int(loose.predict(IMAGES).is_ood.sum())
    assert flagged >= 3
    on(OTHER)
    for place in (path, moved):
        g = guard.load(place)
        assert g.threshold == loose.threshold
        assert g.predict(IMAGES).is_ood.sum() == g.runtime.run(IMAGES).is_ood.sum() == flagged


def test_saving_what_was_built_again_leaves_the_engine_its_own_facts(path: Path, on: Machine, caplog: Any) -> None:
    on(OTHER)
    g = guard.load(path).calibrate(IMAGES, alpha=0.5)
    g.save(path)
    assert g.manifest.engine is not None
    assert g.manifest.engine.gpu == OTHER
    on()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        back = guard.load(path)
    assert "minutes" not in caplog.text
    assert back.threshold == g.threshold


def test_an_onnx_file_that_ran_in_tensorrt_is_saved_as_one(source: Path, on: Machine) -> None:
    on()
    g = guard.load(source, runtime="tensorrt").calibrate(IMAGES, alpha=0.5)
    g.save(source)
    again = guard.load(source, device="cpu")
    assert again.manifest.engine is None
    assert again.threshold == g.threshold
    np.testing.assert_array_equal(
        guard.load(source, runtime="tensorrt").predict(IMAGES).is_ood, g.predict(IMAGES).is_ood
    )


def test_without_the_onnx_file_the_command_is_named(path: Path, on: Machine) -> None:
    engine_source_path(path).unlink()
    on(OTHER)
    words = (
        rf"guard\.engine cannot run here: .*{OTHER}.*; guard\.engine\.onnx, .* not beside it: .*guard export RUN .*e"
    )
    with pytest.raises(EngineMismatchError, match=words):
        guard.load(path)


@pytest.mark.parametrize("what", ["engine", "its manifest", "its ONNX file", "another ONNX file"])
def test_what_was_changed_is_refused(path: Path, on: Machine, what: str) -> None:
    on(OTHER)
    if what == "another ONNX file":
        other = colour_graph().replace(b"colours", b"Colours")
        write_onnx(engine_source_path(path), other, colour_manifest())
        with pytest.raises(ArtefactDamagedError, match=r"is not the file that guard\.engine was built of"):
            guard.load(path)
        return
    file = {"engine": path, "its manifest": engine_manifest_path(path), "its ONNX file": engine_source_path(path)}[what]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), bytes(content[: len(content) // 2])):
        file.write_bytes(damaged)
        with pytest.raises(ArtefactDamagedError):
            guard.load(path)


def test_a_damaged_one_of_those_built_again_is_built_anew(path: Path, on: Machine, caplog: Any) -> None:
    on(OTHER)
    expected = guard.load(path).predict(IMAGES).ood_score
    (again,) = path.parent.glob("guard-*.engine")
    again.write_bytes(again.read_bytes()[:-5])
    np.testing.assert_array_equal(guard.load(path).predict(IMAGES).ood_score, expected)
    assert "it is built again" in caplog.text
    read_pair(again, engine_manifest_path(again))


def test_an_onnx_file_runs_in_tensorrt(source: Path, on: Machine, tmp_path: Path, caplog: Any) -> None:
    on(version="10.13.0")
    expected = guard.load(source, device="cpu").predict(IMAGES)
    cache = tmp_path / "cache"
    cache.mkdir()
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        for runtime_cache in (None, cache, cache):
            g = guard.load(source, runtime="tensorrt", cache=runtime_cache, warm_up=(1, 9))
            assert (g.runtime.name, g.runtime.device) == ("tensorrt", "cuda")
            np.testing.assert_array_equal(g.predict(IMAGES).is_ood, expected.is_ood)
    assert caplog.text.count("there is none for this machine yet") == 2  # beside the file, and in the cache
    assert guard.verify(source, against=source, data=IMAGES, runtime="tensorrt", against_device="cpu").flag_flips == 0
    assert guard.verify(g, against=source, data=IMAGES, runtime="tensorrt").runtime == "tensorrt (cuda)"


def test_it_can_be_built_where_it_cannot_be_kept(source: Path, on: Machine, monkeypatch: Any, caplog: Any) -> None:
    on()

    def full(*_: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("guard.artefact.engines.write_pair", full)
    assert len(guard.load(source, runtime="tensorrt").predict(IMAGES)) == 9
    assert "cannot be kept (read-only file system): it is built again at every start; give cache=" in caplog.text


def test_what_is_missing_is_said(path: Path, source: Path, on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    on(version=None)
    with pytest.raises(MissingExtraError, match="neither tensorrt nor tensorrt_rtx"):
        guard.load(path)
    on()
    with pytest.raises(ConfigError, match="runs on CUDA only"):
        guard.load(source, runtime="tensorrt", device="cpu")
    on(OTHER)
    monkeypatch.setattr(
        "guard.artefact.engines.sibling", lambda _: (_ for _ in ()).throw(ModuleNotFoundError(name="onnx"))
    )
    with pytest.raises(MissingExtraError, match=r"onnx \(needed to build the engine again\).*ood-guard\[train\]"):
        guard.load(path)
    none = Cuda(count=0)
    install(monkeypatch, none, tensorrt("10.9.0.34", none))
    with pytest.raises(Unavailable, match="this machine shows none"):
        guard.load(path)


@pytest.mark.parametrize(
    ("typed_by_flag", "tf32", "flags"), [(True, True, [2]), (False, True, [0]), (False, False, [0])]
)
def test_tensorrt_10_and_11(
    source: Path, on: Machine, tmp_path: Path, typed_by_flag: bool, tf32: bool, flags: list[int]
) -> None:
    """10 asks for strong types by a flag; from 11 on there is none other, and no flag."""
    trt = on(typed_by_flag=typed_by_flag, tf32=tf32)
    Config.made.clear()
    guard.export(source, tmp_path / "guard.engine", max_batch=16)
    assert trt.networks == flags
    (config,) = Config.made
    assert config.cleared == (["TF32"] if tf32 else [])
    assert config.profiles == [((1, 8, 8, 3), (8, 8, 8, 3), (16, 8, 8, 3))]


def test_timings_are_kept_for_the_next_build(path: Path, source: Path, on: Machine, caplog: Any) -> None:
    kept = path.with_name("guard.engine.timing")
    assert kept.read_bytes()[64:] == GPU.encode()
    Config.made.clear()
    guard.export(source, path, max_batch=8)
    assert Config.made[0].cache is not None
    assert Config.made[0].cache.content == GPU.encode()
    with caplog.at_level(logging.INFO, logger="ood_guard"):
        on(OTHER)
        guard.export(source, path, max_batch=8)
        assert "is of another GPU or TensorRT: it is made anew" in caplog.text
        assert kept.read_bytes()[64:] == OTHER.encode()
        kept.write_bytes(kept.read_bytes()[:-1])
        guard.export(source, path, max_batch=8)
    assert "was changed or cut short: it is made anew" in caplog.text
    assert kept.read_bytes()[64:] == OTHER.encode()


def test_tensorrt_rtx_times_nothing_at_a_build(tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is in the dev extra, for platforms that have it")
    timings = Timings(rtx, object(), tmp_path / "timing")
    timings.keep()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_batch": 9, "max_batch": 8}, "1 <= min_batch <= opt_batch <= max_batch, got 9, 8 and 8; raise max_batch"),
        ({"opt_batch": 9, "max_batch": 8}, "got 1, 9 and 8"),
        ({"min_batch": 4, "opt_batch": 2}, "got 4, 2 and 256"),
        ({"min_batch": 0}, "min_batch must be at least 1|min_batch.*greater than or equal to 1"),
    ],
)
def test_batches_out_of_order_are_refused(source: Path, on: Machine, tmp_path: Path, given: Any, words: str) -> None:
    on()
    with pytest.raises(ConfigError, match=words):
        guard.export(source, tmp_path / "g.engine", **given)


def test_an_engine_alone_can_be_copied_to_a_machine_like_its_own(path: Path, tmp_path: Path) -> None:
    for file in (path, engine_manifest_path(path)):
        shutil.copy(file, tmp_path)
    assert len(guard.load(tmp_path / "guard.engine").predict(IMAGES)) == 9
