"""What the tests of loading and decoding share."""

from __future__ import annotations

import pytest

from guard.data import pixels as pixels_module


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("guard.data.forms.torch_dataset._KEEP_BYTES", 0)
