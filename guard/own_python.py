"""A Python process of our own, with the modules of this one."""

from __future__ import annotations

import sys


def own_python(module: str, *arguments: str) -> list[str]:
    """The command that runs `main` of one of our modules with these arguments.

    It finds modules where this process does, as multiprocessing has it; -P: not first of all in the working folder,
    where a user's file may have the name of one of ours.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main(*sys.argv[1:])"
    return [sys.executable, "-P", "-c", code, *arguments]
