"""The loop: seeds, resumption, frozen stages, the splits, and what a step must not do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import guard
from guard.errors import ArtefactDamagedError, ConfigError
from guard.graph.outputs import Outputs
from guard.heads import Head, list_heads
from tests.conftest import RECIPES, Arrays
from train.engine import stages as loop
from train.engine.checkpoint import NAME as CHECKPOINT
from train.engine.loader import Feed
from train.losses.base import Batch
from train.losses.energy_logistic import EnergyLogisticLoss

ROOT = Path(__file__).parents[2]
METHODS = ["plain", "vos", "npos", "oe", "mim", "energy_ft", "acet", "rejection"]

Tiny = dict[str, Any]


def weights(g: guard.Guard) -> dict[str, Tensor]:
    return g.module.state_dict()


def assert_equal(a: guard.Guard, b: guard.Guard) -> None:
    """Bit for bit: weights, batch-norm statistics, score, threshold."""
    assert list(weights(a)) == list(weights(b))
    for key, value in weights(a).items():
        assert torch.equal(value, weights(b)[key]), key
    assert a.threshold == b.threshold
    assert a.manifest.metrics == b.manifest.metrics


def short(four: Arrays) -> Arrays:
    """A third of the images: what only has to run."""
    return four[0][::3], four[1][::3]


# ---------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("name", METHODS)
def test_two_runs_of_one_seed_are_equal_and_another_differs(name: str, four: Arrays, tiny: Tiny) -> None:
    options = {**tiny, **RECIPES[name], "epochs": 2, "augment": "crop+flip"}
    options |= {"head_epochs": 1} if name == "rejection" else {}
    a, b = (guard.train(short(four), seed=3, **options) for _ in range(2))
    assert_equal(a, b)
    if name == "plain":
        other = guard.train(short(four), seed=4, **options)
        assert not torch.equal(
            weights(a)["classifier.backbone.stem.weight"], weights(other)["classifier.backbone.stem.weight"]
        )


def test_each_epoch_of_each_stage_has_a_seed_of_its_own() -> None:
    seeds = {
        loop.epoch_seed(s, stage, epoch) + add
        for s in range(3)
        for stage in range(3)
        for epoch in range(300)
        for add in (0, 1)
    }
    assert len(seeds) == 3 * 3 * 300 * 2


def test_the_schedule_rises_linearly_and_falls_by_half_a_cosine() -> None:
    assert loop.schedule(0.0, 0.1) == 1e-3  # never quite nothing
    assert loop.schedule(0.05, 0.1) == pytest.approx(0.5)
    assert loop.schedule(0.1, 0.1) == pytest.approx(1)
    assert loop.schedule(0.55, 0.1) == pytest.approx(0.5)
    assert loop.schedule(1.0, 0.1) == pytest.approx(0, abs=1e-12)
    assert loop.schedule(0.0, 0.0) == 1


# -------------------------------------------------------------------------------------------------- kill and resume

RESUMED = {
    "plain": {"method": "plain", "epochs": 4, "ema": 0.9, "augment": "crop+flip"},
    "vos": {"method": "vos", "epochs": 4, "start": 0.25, "queue": 20, "score": "energy_logistic"},
    "npos": {**RECIPES["npos"], "epochs": 4},
    # its margins are those of the network that the stage began with
    "energy_ft": {**RECIPES["energy_ft"], "epochs": 2, "outliers": "low_pass_noise"},
    "rejection": {"method": "rejection", "epochs": 2, "head_epochs": 2, "hidden": 32},
    "mim": {"method": "mim", "epochs": 2, "finetune_epochs": 2, "finetune_lr": 0.01, "k": 3, "ema": 0.9},
    # heads whose loss has a state of its own
    "adacos": {"head": "adacos", "head_options": {"adaptive": True}, "epochs": 3},
    "sphereface": {"head": "sphereface", "epochs": 3},
    "hypersphere": {"head": "hypersphere", "epochs": 3, "ema": 0.9},
}

KILLED = """
import os, signal, sys
import numpy as np, torch
torch.set_num_threads(1)
import guard
from train import loop

stage, epoch, after = (int(v) for v in sys.argv[2].split(","))
step, steps = loop.StageRun.step, 0

def until_killed(self, *arguments):
    global steps
    losses = step(self, *arguments)
    at = len([l for l in open(out + "/metrics.jsonl")]) if os.path.exists(out + "/metrics.jsonl") else 0
    if self.index == stage and at == epoch:
        steps += 1
        if steps == after:
            os.kill(os.getpid(), signal.SIGKILL)
    return losses

loop.StageRun.step = until_killed
data = np.load(sys.argv[1])
out, options = sys.argv[3], eval(sys.argv[4])
guard.train((data["images"], data["labels"]), out=out, **options)
raise SystemExit("it was not killed")
"""


def killed(arrays: Arrays, tmp_path: Path, out: Path, where: str, options: Tiny) -> None:
    """A real process that gets SIGKILL within an epoch; `where` is "stage,epochs done,steps into the next"."""
    np.savez(tmp_path / "data.npz", images=arrays[0], labels=arrays[1])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "data.npz"), where, str(out), repr(options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("plain", "0,2,1"),  # stage 0, after the first step of its third epoch
        ("vos", "0,3,2"),
        ("npos", "0,3,2"),
        ("energy_ft", "1,3,1"),
        ("rejection", "1,3,1"),  # in the second epoch of the second stage
        ("mim", "1,2,2"),  # at the end of the second stage's first epoch, before its checkpoint
        ("adacos", "0,2,1"),
        ("sphereface", "0,2,1"),
        ("hypersphere", "0,2,1"),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    name: str, where: str, four: Arrays, tiny: Tiny, tmp_path: Path
) -> None:
    options = {**tiny, **RESUMED[name]}
    whole = guard.train(short(four), out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    killed(short(four), tmp_path, out, where, options)
    assert not (out / "guard.json").exists()
    before = (out / "metrics.jsonl").read_text().splitlines()
    resumed = guard.train(short(four), out=out, resume=True, **options)
    assert_equal(resumed, whole)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before
    assert strip(lines) == strip((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    assert_equal(guard.load(out, device="cpu"), whole)


def strip(lines: list[str]) -> list[dict[str, Any]]:
    """The records without what differs between two equal runs: the time."""
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def test_the_journal_has_one_line_per_epoch_and_none_twice(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    options = {**tiny, **RESUMED["rejection"]}
    guard.train(short(four), out=tmp_path, **options)
    journal = tmp_path / "metrics.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [(r["stage"], r["epoch"]) for r in records] == [
        ("classifier", 1),
        ("classifier", 2),
        ("rejection", 1),
        ("rejection", 2),
    ]
    assert {"loss", "ce", "accuracy", "lr", "seconds"} <= set(records[0])
    assert "rejection" in records[2]
    assert "ce" not in records[2]
    # lines of an epoch after the checkpoint, and one that a kill cut short, are dropped
    with journal.open("a") as file:
        file.write(json.dumps({"stage": "rejection", "stage_index": 1, "epoch": 3}) + "\n" + '{"stage": "rej')
    guard.train(short(four), out=tmp_path, resume=True, **options)
    assert [json.loads(line) for line in journal.read_text().splitlines()] == records


def test_resuming_a_finished_run_changes_nothing(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    options = {**tiny, **RESUMED["vos"]}
    first = guard.train(short(four), out=tmp_path, **options)
    assert_equal(guard.train(short(four), out=tmp_path, resume=True, **options), first)


def test_resume_without_a_checkpoint_starts_anew(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    g = guard.train(short(four), out=tmp_path / "new", resume=True, **{**tiny, "epochs": 1})
    assert_equal(g, guard.train(short(four), **{**tiny, "epochs": 1}))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.05}, r"lr: 0\.1 then, 0\.05 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"method": "vos"}, "method: 'plain' then, 'vos' now"),
        ({"augment": "crop", "batch_size": 16}, "batch_size: 32 then, 16 now; augment: 'none' then, 'crop' now"),
    ],
)
def test_resuming_with_other_arguments_names_them(
    changed: Tiny, named: str, four: Arrays, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.getbasetemp() / "resumed-otherwise"
    options = {**tiny, "epochs": 1}
    if not out.exists():
        guard.train(short(four), out=out, **options)
    with pytest.raises(ConfigError, match=f"holds a run with other arguments.*{named}.*choose another out folder"):
        guard.train(short(four), out=out, resume=True, **{**options, **changed})


def test_resuming_with_other_data_is_refused(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    guard.train(short(four), out=tmp_path, **{**tiny, "epochs": 1})
    changed = four[0][::3].copy()
    changed[0, 0, 0] ^= 1
    with pytest.raises(ConfigError, match="data_fingerprint: "):
        guard.train((changed, four[1][::3]), out=tmp_path, resume=True, **{**tiny, "epochs": 1})


def test_a_damaged_checkpoint_is_refused(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(
        ArtefactDamagedError, match=r"checkpoint\.safetensors is damaged .*remove it to start the run anew"
    ):
        guard.train(short(four), out=tmp_path, resume=True, **tiny)


def test_a_checkpoint_cut_short_is_refused(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    guard.train(short(four), out=tmp_path, **{**tiny, "epochs": 1})
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactDamagedError, match="is damaged"):
        guard.train(short(four), out=tmp_path, resume=True, **{**tiny, "epochs": 1})


# ------------------------------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("name", ["rejection", "rejection-map"])
def test_a_frozen_stage_leaves_every_answer_as_it_was(name: str, trained: Callable[[str], Any], four: Arrays) -> None:
    """The rejection network's classifier is the plain one, to the bit: weights, statistics, probabilities."""
    plain, rejection = trained("plain"), trained(name)
    for key, value in plain.module.classifier.state_dict().items():
        assert torch.equal(value, rejection.module.classifier.state_dict()[key]), key
    a, b = plain.predict(four[0][:64]), rejection.predict(four[0][:64])
    np.testing.assert_array_equal(a.probabilities, b.probabilities)
    np.testing.assert_array_equal(a.label, b.label)
    assert plain.manifest.metrics["test_accuracy"] == rejection.manifest.metrics["test_accuracy"]


def test_mixup_keeps_the_batch_norm_statistics(trained: Callable[[str], Any]) -> None:
    plain, mim = (trained(name).module.classifier.state_dict() for name in ("plain", "mim"))
    statistics = [key for key in plain if "running" in key or "num_batches" in key]
    assert statistics
    assert all(torch.equal(plain[key], mim[key]) for key in statistics)
    assert not torch.equal(plain["backbone.stem.weight"], mim["backbone.stem.weight"])


def test_held_out_images_are_never_trained_on(four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    batches = Feed.batches

    def spy(self: Feed, *arguments: Any) -> Any:
        for batch in batches(self, *arguments):
            seen.append(batch.images.clone())
            yield batch

    monkeypatch.setattr(Feed, "batches", spy)
    images = four[0].copy()
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(400) // 256, np.arange(400) % 256  # each carries its number
    g = guard.train((images, four[1]), **{**tiny, "epochs": 3})
    marks = torch.cat(seen)[:, 0, 0].long()
    numbers = set((256 * marks[:, 0] + marks[:, 1]).tolist())
    splits = {name: set(rows.tolist()) for name, rows in g.splits.items()}
    assert numbers == splits["train"]  # three epochs, each leaving out the rest of a batch, show every image
    assert not numbers & (splits["calibration"] | splits["test"])
    assert sorted([*splits["train"], *splits["calibration"], *splits["test"]]) == list(range(400))


def test_the_threshold_and_the_numbers_come_from_the_held_out_images(
    trained: Callable[[str], Any], four: Arrays
) -> None:
    g = trained("plain")
    held, test = (four[0][g.splits[name]] for name in ("calibration", "test"))
    np.testing.assert_allclose(g.manifest.calibration.scores, np.sort(g.predict(held).ood_score), rtol=1e-5, atol=1e-5)
    verdicts = g.predict(test)
    assert g.manifest.metrics["test_accuracy"] == (verdicts.label == four[1][g.splits["test"]]).mean()
    assert g.manifest.metrics["test_false_alarm_rate"] == verdicts.is_ood.mean()


def test_averaged_weights_are_near_the_trained_ones_even_after_a_short_run(four: Arrays, tiny: Tiny) -> None:
    """Twelve steps: 0.999^12 would leave 99 % of the random initialisation in the average."""
    options = {**tiny, "epochs": 2}
    raw, averaged = guard.train(short(four), **options), guard.train(short(four), ema=0.999, **options)
    torch.manual_seed(0)
    start = loop_start(raw)
    key = "head.linear.weight"
    moved = (raw.module.classifier.state_dict()[key] - start[key]).norm()
    left = (raw.module.classifier.state_dict()[key] - averaged.module.classifier.state_dict()[key]).norm()
    assert 0 < left < 0.6 * moved


def loop_start(g: guard.Guard) -> dict[str, Tensor]:
    """The weights before training."""
    from train.classifiers.fresh import build_classifier

    return build_classifier(g.manifest.backbone, g.manifest.head, 4, in_chans=3, image_size=16).state_dict()


def test_the_average_is_the_recursion_it_says_it_is() -> None:
    module = nn.BatchNorm1d(1)
    average = loop.Average(module, decay=0.3)
    expected = 1.0
    for step, value in enumerate([4.0, -2.0, 7.0, 7.0, 0.0]):
        with torch.no_grad():
            module.weight.fill_(value)
        module.num_batches_tracked.fill_(step)
        average.update(module, step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.shadow.weight.item() == pytest.approx(expected, rel=1e-6)
    assert average.shadow.num_batches_tracked == 4
    assert module.weight.item() == 0


def test_vos_teaches_the_backbone_the_head_and_the_link(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real steps, the regulariser's own gradients: W and b through the outliers, the backbone through the energies
    of in-distribution images. One public copy has neither. Before every queue is full there are none at all."""
    step, loss = loop.StageRun.step, EnergyLogisticLoss.loss
    through_outliers: list[float] = []
    reached: list[dict[str, float]] = []
    running: list[loop.StageRun] = []

    def spy_loss(self: EnergyLogisticLoss, batch: Batch) -> dict[str, Tensor]:
        head = running[0].classifier.head.linear
        outside = Batch(
            Outputs(batch.inliers.features, batch.inliers.logits.detach(), None), batch.labels, batch.outliers
        )
        gradients = torch.autograd.grad(loss(self, outside)["energy"], [head.weight, head.bias], retain_graph=True)
        through_outliers.append(min(float(g.abs().max()) for g in gradients))
        return loss(self, batch)

    def spy_step(self: loop.StageRun, *arguments: Any) -> Any:
        running[:] = [self]
        losses = step(self, *arguments)
        parts = {
            "stem": self.classifier.backbone.stem.weight,
            "W": self.classifier.head.linear.weight,
            "b": self.classifier.head.linear.bias,
            "w": self.regularisers[0].class_weights,
            "slope": self.regularisers[0].slope,
            "offset": self.regularisers[0].offset,
        }
        reached.append({name: float(p.grad.abs().max()) for name, p in parts.items() if p.grad is not None})
        return losses

    monkeypatch.setattr(loop.StageRun, "step", spy_step)
    monkeypatch.setattr(EnergyLogisticLoss, "loss", spy_loss)
    monkeypatch.setattr(Head, "loss", lambda self, features, logits, labels: {"ce": logits.sum() * 0})
    guard.train(short(four), **{**tiny, **RECIPES["vos"], "start": 0.0, "epochs": 4})
    assert min(through_outliers) > 0
    assert set(reached[-1]) == {"stem", "W", "b", "w", "slope", "offset"}
    assert min(reached[-1].values()) > 0
    assert max(reached[0].values()) == 0


# ---------------------------------------------------------------------------------------- no waiting inside a step


def uncounted(step: Callable[..., Any]) -> Callable[..., Any]:
    """Adam's step without `NoWaiting`: it reads its count of steps, which lives on the host."""

    def run(self: torch.optim.Adam, *arguments: Any) -> Any:
        with _disable_current_modes():
            return step(self, *arguments)

    return run


class NoWaiting(TorchDispatchMode):
    """Refuse every operation whose result the host needs before it can go on: on a GPU each would stop the pipeline."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "bincount", "item")

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name.startswith(self.WAITS) or (name == "repeat_interleave" and "Tensor" in str(function)):
            raise AssertionError(f"{function} waits for the device")
        if name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in arguments[1]
        ):
            raise AssertionError(f"{function} with a mask waits for the device")
        return function(*arguments, **(kwargs or {}))


HEADS: dict[str, dict[str, Any]] = {name: {"head": name, "score": "energy"} for name in list_heads()}
HEADS["adacos"]["head_options"] = {"adaptive": True}


@pytest.mark.parametrize("name", [*RECIPES, *(name for name in HEADS if name not in RECIPES)])
def test_nothing_waits_for_the_device_inside_a_step(
    name: str, four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, stages = loop.StageRun.step, set()

    def watched(self: loop.StageRun, *arguments: Any) -> Any:
        stages.add(self.stage.name)
        with NoWaiting():
            return step(self, *arguments)

    monkeypatch.setattr(loop.StageRun, "step", watched)
    monkeypatch.setattr(torch.optim.Adam, "step", uncounted(torch.optim.Adam.step))
    short_run = {"epochs": 1, "head_epochs": 1} if name.startswith("rejection") else {"epochs": 1}
    guard.train(short(four), ema=0.9, **{**tiny, "augment": "crop+flip", **(RECIPES | HEADS)[name], **short_run})
    assert stages


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.sum()),
        lambda x: bool(x.sum() > 0),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: int(x.argmax()),
    ],
)
def test_waiting_is_noticed(wait: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        wait(torch.ones(3))
