"""A module of two packages: one of them, never both, and a sentence where there is none."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

import pytest

from guard.errors import MissingExtraError, RuntimeUnavailableError
from guard.twins import TWINS, twin


@pytest.mark.parametrize("module", TWINS)
def test_both_are_refused(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    with pytest.raises(RuntimeUnavailableError, match=r"overwrite each other; run: pip uninstall -y .*\[gpu\]"):
        twin.__wrapped__(module)


@pytest.mark.parametrize("module", TWINS)
def test_neither_names_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=rf"{module} is not installed; run: pip install 'ood-guard\[cpu\]'"):
        twin.__wrapped__(module)
