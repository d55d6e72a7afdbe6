"""What a launcher of several processes (torchrun, ``accelerate launch``) says in the environment. No torch."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes run this program together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process speaks for all: its rank is 0, or there is no other."""
    return process_count() == 1 or int(os.environ.get("RANK", "0")) == 0
