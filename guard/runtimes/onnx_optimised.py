"""ONNX Runtime's optimised graph, kept in a folder so that the next start need not optimise again.

What it makes of a file depends on its version, the provider and the processor, so they are written beside the graph
with the SHA-256 of the file that it was made of and of its own. Where one of them differs, it is made anew and the
reason is logged: the file itself is read and checked at every start, and decides.

    folder/<first digits of the file's SHA-256>-<provider>.onnx    the optimised graph
    folder/<the same>.onnx.json                                    what it was made of and with
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from pydantic import ValidationError

from ..artefact.files import write_atomic
from ..artefact.places import writable_folder
from ..latency.machine import machine
from ..record import Record

log = logging.getLogger("ood_guard")


class MadeOf(Record):
    """What an optimised graph was made of and with, and its own digest."""

    source_sha256: str
    onnxruntime: str
    provider: str
    processor: str
    optimised_sha256: str = ""


class OptimisedGraph:
    """Where the optimised graph of one file is kept.

    Args:
        folder: made if missing.
        source: the file's bytes.
        onnxruntime: its version.
        provider: ONNX Runtime's name of it.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, source: bytes, onnxruntime: str, provider: str) -> None:
        digest, facts = hashlib.sha256(source).hexdigest(), machine()
        processor = " ".join([facts["cpu"], *facts["flags"]])
        self.now = MadeOf(source_sha256=digest, onnxruntime=onnxruntime, provider=provider, processor=processor)
        self.path = writable_folder(folder, "cache") / f"{digest[:16]}-{provider}.onnx"
        self._record = self.path.with_name(self.path.name + ".json")

    def read(self) -> bytes | None:
        """The optimised graph; None where it must be made."""
        if not self.path.exists():
            return None
        if reason := self._differs(graph := self.path.read_bytes()):
            log.info("%s is made anew: %s", self.path, reason)
            return None
        return graph

    def _differs(self, graph: bytes) -> str:
        """Why what is kept will not do; "" where it will."""
        try:
            found = MadeOf.model_validate(json.loads(self._record.read_bytes()))
        except (OSError, ValueError, ValidationError):
            return "what it was made with is not known"
        if hashlib.sha256(graph).hexdigest() != found.optimised_sha256:
            return "it was changed or cut short after it was written (its SHA-256 differs)"
        for name, now in self.now.model_dump(exclude={"optimised_sha256"}).items():
            if (then := getattr(found, name)) != now:
                return f"it was made with {name} {then}, and this is {now}"
        return ""

    def write(self, graph: bytes) -> None:
        """Keep an optimised graph."""
        made = self.now.model_copy(update={"optimised_sha256": hashlib.sha256(graph).hexdigest()})
        write_atomic(self.path, graph)
        write_atomic(self._record, made.model_dump_json(indent=1).encode())
        log.info("kept the optimised graph as %s", self.path)
