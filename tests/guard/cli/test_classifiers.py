"""`guard fit --model`: run folders, ``package.module:callable``, timm names with and without a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from guard.cli.classifiers import classifier
from guard.errors import ConfigError, MissingDataError, ModelError

MODULE = """
from torch import nn

class Nets:
    small = staticmethod(lambda: nn.Linear(4, 2))

def net():
    return nn.Linear(4, 2)

def nothing():
    return 3

def pair():
    return abs, nn.Linear(4, 2)

value = 1
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, as users have it."""
    (tmp_path / "my_nets_for_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets_for_test", raising=False)
    return "my_nets_for_test"


@pytest.mark.parametrize("attribute", ["net", "Nets.small"])
def test_a_callable_in_the_working_directory_is_called(user_module: str, attribute: str) -> None:
    before = list(sys.path)
    assert isinstance(classifier(f"{user_module}:{attribute}"), nn.Linear)
    assert sys.path == before


def test_a_pair_of_callables_is_passed_on_and_takes_no_checkpoint(user_module: str, tmp_path: Path) -> None:
    assert classifier(f"{user_module}:pair")[0] is abs
    save_file({"weight": torch.zeros(2, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="gave two callables, which bring their weights; drop --checkpoint"):
        classifier(f"{user_module}:pair", tmp_path / "w.safetensors")


def test_its_weights_come_from_the_checkpoint(user_module: str, tmp_path: Path) -> None:
    weights = {"weight": torch.arange(8.0).reshape(2, 4), "bias": torch.ones(2)}
    save_file(weights, tmp_path / "w.safetensors")
    model = classifier(f"{user_module}:net", tmp_path / "w.safetensors")
    assert torch.equal(model.weight, weights["weight"])


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("absent_module:net", ConfigError, "no module 'absent_module'"),
        ("my_nets_for_test:nett", ConfigError, "has no 'nett' to call; it has Nets, net, nothing"),
        ("my_nets_for_test:value", ConfigError, "value is int, not something to call"),
        ("my_nets_for_test:nothing", ModelError, "gave int; it must give a torch.nn.Module or two callables"),
    ],
)
def test_wrong_callables_meet_a_sentence(user_module: str, name: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        classifier(name)


def test_a_checkpoint_that_does_not_fit_names_the_difference(user_module: str, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"does not fit my_nets_for_test:net: size mismatch for weight"):
        classifier(f"{user_module}:net", tmp_path / "w.safetensors")


def test_pickled_and_missing_checkpoints_are_refused(user_module: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 4)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"not a safetensors file .* pickled checkpoints are not read"):
        classifier(f"{user_module}:net", tmp_path / "w.pt")
    with pytest.raises(MissingDataError, match="no such checkpoint"):
        classifier(f"{user_module}:net", tmp_path / "absent.safetensors")


@pytest.mark.parametrize("name", [".", "nets/mine.onnx"])
def test_run_folders_and_onnx_files_are_passed_on_and_take_no_checkpoint(name: str, tmp_path: Path) -> None:
    assert classifier(name) == name
    with pytest.raises(ConfigError, match="brings its weights; drop --checkpoint"):
        classifier(name, tmp_path / "w.safetensors")


def test_a_timm_checkpoint_decides_the_number_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = timm.create_model("resnet10t", num_classes=7, in_chans=1)
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    model = classifier("resnet10t", tmp_path / "w.safetensors", in_chans=1)
    assert model.num_classes == 7
    assert torch.equal(model.conv1[0].weight, original.conv1[0].weight)
    with pytest.raises(ModelError, match="does not fit resnet10t: size mismatch"):  # colour, not grey
        classifier("resnet10t", tmp_path / "w.safetensors")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="it holds no weights of fc"):
        classifier("resnet10t", tmp_path / "w.safetensors")


def test_names_are_left_to_guard_fit(tmp_path: Path) -> None:
    assert classifier("resnet18") == "resnet18"
    assert classifier("no_such_net", tmp_path / "w.safetensors") == "no_such_net"


def test_a_callable_that_wants_arguments_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wanting.py").write_text("def make(classes):\n    return classes\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"make must be callable without arguments \(missing a required argument"):
        classifier("wanting:make")


@pytest.mark.parametrize("name", [":foo", ".x:foo", "a b:foo", "a..b:foo", "1a:foo"])
def test_what_is_not_the_name_of_a_module_is_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a module; give package"):
        classifier(name)


def test_a_name_that_no_file_can_have_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="is too long for a name"):
        classifier("x" * 5000)


def test_a_checkpoint_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingDataError, match=f"no such checkpoint: {tmp_path}/w.safetensors"):
        classifier("resnet18", Path("~/w.safetensors"))
