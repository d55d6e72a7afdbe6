"""What a synthesiser holds is in no checkpoint, and can be let go."""

from __future__ import annotations

import gc
import weakref

import pytest
from torch import nn

from guard.errors import ConfigError
from train.cache.held import Held


def test_a_network_that_is_held_is_no_submodule() -> None:
    owner = nn.Module()
    owner.held = Held("nothing yet")
    owner.held.put(nn.Linear(2, 2))
    assert not list(owner.parameters())
    assert not owner.state_dict()


def test_it_says_what_is_missing_before_and_after() -> None:
    held: Held[nn.Module] = Held("call prepare first")
    for _ in range(2):
        assert not held
        with pytest.raises(ConfigError, match="call prepare first"):
            held.get()
        put = held.put(nn.Linear(1, 1))
        assert held
        assert held.get() is put
        held.release()


def test_what_is_released_leaves_memory() -> None:
    held: Held[nn.Module] = Held("")
    gone = weakref.ref(held.put(nn.Linear(1, 1)))
    held.release()
    gc.collect()
    assert gone() is None
