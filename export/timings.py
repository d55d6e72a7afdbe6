"""TensorRT's timing cache: what earlier builds measured, so that the next one on this GPU need not.

A file is the SHA-256 of what follows it in hexadecimal, then TensorRT's bytes. Of another GPU or version, or damaged,
it is not read, and written anew. tensorrt_rtx measures nothing at a build, so there is no file.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from guard.artefact.files import write_atomic

log = logging.getLogger("ood_guard")

_DIGEST = 64  # bytes


class Timings:
    """The timing cache of one build.

    Args:
        config: the builder's.
        path: the file.
    """

    def __init__(self, trt: ModuleType, config: Any, path: Path) -> None:
        self._config, self._path = config, path
        # tensorrt_rtx has the calls, and leaves measuring to the start
        self._used = not hasattr(trt, "IRuntimeCache") and hasattr(config, "create_timing_cache")
        if not self._used:
            return
        cache = config.create_timing_cache(self._read())
        if not (cache is not None and config.set_timing_cache(cache, False)):
            log.info("%s is of another GPU or TensorRT: it is made anew", path)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _read(self) -> bytes:
        if not self._path.exists():
            return b""
        content = self._path.read_bytes()
        digest, timings = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(timings).hexdigest().encode() != digest:
            log.info("%s was changed or cut short: it is made anew", self._path)
            return b""
        return timings

    def keep(self) -> None:
        """Write what is known after the build; a folder that takes no file is no error."""
        if not self._used:
            return
        timings = bytes(self._config.get_timing_cache().serialize())
        try:
            write_atomic(self._path, hashlib.sha256(timings).hexdigest().encode() + timings)
        except OSError as error:
            log.info("%s cannot be kept: %s", self._path, error)
