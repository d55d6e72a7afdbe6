"""Pieces are made once, whole or not at all, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from guard.errors import ArtefactDamagedError
from train.cache.pieces import kept_chunks, read_piece


def test_what_is_there_is_not_made_again_and_what_is_damaged_is_refused(tmp_path: Path) -> None:
    made: list[int] = []

    def make(i: int, fails_at: int = 99) -> dict[str, torch.Tensor]:
        if i == fails_at:
            raise KeyboardInterrupt
        made.append(i)
        return {"a": torch.full((2, 3), float(i)).T, "b": torch.tensor([i])}

    folder = tmp_path / "pieces"
    with pytest.raises(KeyboardInterrupt):
        kept_chunks(folder, 3, lambda i: make(i, fails_at=2), "")
    whole = kept_chunks(folder, 3, make, "")
    assert made == [0, 1, 2]
    assert whole["a"].shape == (9, 2)
    assert whole["b"].tolist() == [0, 1, 2]
    assert whole["a"][:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    (folder / "00001.safetensors").write_bytes(b"short")
    with pytest.raises(ArtefactDamagedError, match=r"00001\.safetensors is damaged .* remove it to make it anew"):
        kept_chunks(folder, 3, make, "")


@pytest.mark.parametrize("content", [b"", b"x" * 100, save({"others": torch.zeros(2)})])
def test_a_kept_file_that_is_damaged_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "means.safetensors").write_bytes(content)
    with pytest.raises(
        ArtefactDamagedError, match=r"means\.safetensors (is damaged|has no means).*remove it to make it"
    ):
        read_piece(tmp_path / "means.safetensors", "means")
