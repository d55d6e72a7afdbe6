"""One rule for a word that is both a name and a path: a name that ood-guard knows is taken as that name, and said.

A folder of that name is given by its path, ``./digits``. An ``owner/name`` that is a folder here is the folder; the
data set on the Hugging Face hub is ``owner/name:split``.
"""

from __future__ import annotations

import logging
from pathlib import Path

LOG = logging.getLogger("ood_guard")


def folder_of_that_name(name: str, taken_as: str) -> None:
    """Say so where something in the working directory has the name that is taken otherwise."""
    if Path(name).exists():
        LOG.warning("%r is taken as %s; what has that name here is './%s'", name, taken_as, name)
