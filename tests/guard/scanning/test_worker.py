"""What a process of a scan opens, here or on another node: every kind of guard that has a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guard
from guard.artefact.load import manifest_of
from guard.errors import ArtefactDamagedError
from guard.requests import ScanRequest
from guard.scanning.processes import Job
from guard.scanning.scan import _runtime_name
from guard.scanning.worker import opened_job
from tests.conftest import Arrays


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_guard_is_opened_by_its_path(
    kind: str, trained: Callable[[str], Any], exported: Callable[[str], Path], four: Arrays, tmp_path: Path
) -> None:
    g = trained("plain")
    path = exported("plain") if kind == "file" else g.save_pretrained(tmp_path / "run")
    manifest = manifest_of(path)
    runtime = _runtime_name(ScanRequest(g=path, data="digits", out=tmp_path / "scan"), manifest)
    job = Job(path, manifest.model_dump_json(), runtime, 10**6)
    np.testing.assert_allclose(
        opened_job(job).predict(four[0][:5]).ood_score, g.predict(four[0][:5]).ood_score, rtol=1e-3
    )
    with pytest.raises(ArtefactDamagedError, match="was replaced while it was in use"):
        opened_job(
            Job(path, manifest.model_copy(update={"weights_sha256": "0" * 64}).model_dump_json(), runtime, 10**6)
        )


def test_a_scan_takes_a_run_folder(trained: Callable[[str], Any], four: Arrays, tmp_path: Path) -> None:
    run = trained("plain").save_pretrained(tmp_path / "run")
    found = guard.scan(run, four[0][:20], out=tmp_path / "scan")
    assert found.images == 20
