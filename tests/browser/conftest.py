"""Chromium, a guard that explains, and a page of a running service.

The guard is that of `tests.serving.conftest`, with the outputs that explanations read: its embedding is the mean
colour, and its two parts are how dark and how little red an image is.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.artefact.files import write_onnx
from guard.explanation import unit
from guard.exported import Exemplar, Exemplars
from serving.runner import running_service
from tests.serving.conftest import colour_graph, colour_manifest, encoded

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]
#: Nothing of Chromium's own that would ask the network, and a camera that needs neither hardware nor consent.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-proxy-server"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]


@pytest.fixture(scope="module")  # Playwright's event loop would run on under the tests of other files
def chromium() -> Iterator[Any]:
    """A headless Chromium of the system; `make test` installs it."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed, and `make chromium` could not install it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


def explained_graph() -> bytes:
    """`colour_graph` with `embedding` (N, 3) and `surprises` (2, N), whose sum is not the score."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(colour_graph())
    node, graph = helper.make_node, model.graph
    graph.node.extend(
        [
            node("Identity", ["mean"], ["embedding"]),
            node("Gather", ["mean", "first"], ["red"], axis=1),
            node("ReduceMax", ["mean", "colours"], ["brightest"], keepdims=0),
            node("Unsqueeze", ["red", "rows"], ["red_row"]),
            node("Unsqueeze", ["brightest", "rows"], ["bright_row"]),
            node("Concat", ["bright_row", "red_row"], ["levels"], axis=0),
            node("Sub", ["white", "levels"], ["missing"]),
            node("Mul", ["missing", "steep"], ["surprises"]),
        ]
    )
    constants = {"first": np.array(0, np.int64), "colours": np.array([1], np.int64), "rows": np.array([0], np.int64)}
    constants |= {"white": np.array(255, np.float32), "steep": np.array(0.02, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.output.extend(
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("surprises", TensorProto.FLOAT, [2, "batch"]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def explained_guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exemplars = Exemplars(
        images=tuple(
            Exemplar(label=i, jpeg_base64=base64.b64encode(encoded(colour, size=(32, 32), format="JPEG")).decode())
            for i, colour in enumerate(COLOURS)
        ),
        embeddings_base64=base64.b64encode(unit(np.array(COLOURS)).astype("<f2").tobytes()).decode(),
    )
    manifest = colour_manifest().model_copy(
        update={"exemplars": exemplars, "score": "combined", "score_options": {"parts": ["energy", "knn"]}}
    )
    path = tmp_path_factory.mktemp("explained") / "colours.onnx"
    write_onnx(path, explained_graph(), manifest)
    return path


@pytest.fixture(scope="session")
def explained_service(explained_guard: Path) -> Iterator[str]:
    with running_service(explained_guard) as base:
        yield base


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """images("red", (255, 0, 0)) -> a PNG file of that name."""

    def write(name: str, colour: tuple[int, int, int]) -> Path:
        path = tmp_path / f"{name}.png"
        path.write_bytes(encoded(colour, size=(40, 30)))
        return path

    return write


@pytest.fixture
def opened(chromium: Any, explained_service: str) -> Iterator[Callable[..., Any]]:
    """opened(**context options) -> the page, loaded; at the end nothing may have failed, been blocked or left the
    service."""
    contexts, complaints = [], list[str]()

    def load(base: str = explained_service, **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.on(
            "request",
            lambda asked: complaints.append(asked.url) if not asked.url.startswith((base, "blob:", "data:")) else None,
        )
        page.goto(f"{base}/ui")
        return page

    yield load
    for context in contexts:
        context.close()
    assert complaints == []
