"""/openapi.json against the service itself: the same paths, methods and parameters, and Schemathesis finds nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from starlette.testclient import TestClient

from guard.artefact.files import read_onnx
from serving.app import App
from serving.openapi.document import document
from serving.openapi.operations import HEALTH, OPERATIONS
from serving.runner import running_service
from serving.settings import Settings
from tests.serving.answers import RED, Encode

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/{name}/infer"


@pytest.fixture(scope="module")
def app(colour_guard: Path) -> App:
    return App(Settings(model=colour_guard, threads=1))


@pytest.fixture(scope="module")
def described(app: App) -> dict[str, Any]:
    with TestClient(app.asgi) as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_route_is_described_and_nothing_else(app: App, described: dict[str, Any]) -> None:
    routes = app.worker.routes
    assert set(OPERATIONS) == set(routes)
    assert set(described["paths"]) == set(routes) | set(HEALTH)
    for path, route in routes.items():
        operations = described["paths"][path]
        assert set(operations) == {method.lower() for method in route.methods}
        for operation in operations.values():
            queries = [one["name"] for one in operation["parameters"] if one["in"] == "query"]
            assert queries == list(route.query), path
            assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == {
                part[1:-1] for part in path.split("/") if part.startswith("{")
            }


def test_every_identity_is_one_operations(described: dict[str, Any]) -> None:
    found = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(found) == len(set(found)) > 20


def test_the_guards_that_are_served_are_named(described: dict[str, Any], colour_guard: Path) -> None:
    version = read_onnx(colour_guard)[1].identity.rpartition("@")[2]
    parameters = described["paths"]["/v2/models/{name}/versions/{version}"]["get"]["parameters"]
    found = {one["name"]: one["schema"] for one in parameters}
    assert (found["name"]["enum"], found["version"]["enum"]) == (["guard"], [version])


def test_the_answers_are_what_the_document_says(app: App, described: dict[str, Any], encode: Encode) -> None:
    def checked(path: str, method: str, answer: Any) -> None:
        schema = described["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema_rs.validator_for({**schema, "components": described["components"]}).validate(answer)

    with TestClient(app.asgi) as client:
        asked = described["paths"][INFER]["post"]["requestBody"]["content"]["application/json"]["example"]
        checked(INFER, "post", client.post("/v2/models/guard/infer", json=asked).json())
        checked("/predict", "post", client.post("/predict", content=encode(RED)).json())
        checked("/explain", "post", client.post("/explain", content=encode(RED)).json())
        checked("/drift", "get", client.get("/drift").json())
        card = client.get("/model").json()
        checked("/model", "get", card)
        with pytest.raises(jsonschema_rs.ValidationError):
            checked("/model", "get", {**card, "unknown": 1})


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            here = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return here + [ref for value in part.values() for ref in references(value)]
        return [ref for value in part for ref in references(value)] if isinstance(part, list) else []

    found = references(described)
    assert found
    assert {ref.removeprefix("#/components/schemas/") for ref in found} <= set(described["components"]["schemas"])


def test_a_token_is_asked_for_where_the_service_asks_for_it(app: App) -> None:
    served = {"guard": "0123456789ab"}
    with_token, without = (document(app.worker.routes, token=token, models=served) for token in (True, False))
    for path, route in app.worker.routes.items():
        for operation in with_token["paths"][path].values():
            assert ("security" in operation) == ("401" in operation["responses"]) == (not route.open)
    assert "securitySchemes" not in without["components"]
    assert "401" not in str(without)


# -------------------------------------------------------------------------------------------------------- schemathesis


def _explored(service: str, folder: Path, *options: str) -> None:
    """`st run` with every check; its report where it finds something."""
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(ROOT / "tests" / "serving" / "schemathesis.toml"), "run"]
    command += [f"{service}/openapi.json", "--no-color", "--continue-on-failure", "--seed", "1", *options]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.serving.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* generated, [1-9]\d* passed", done.stdout), done.stdout[-2000:]


def test_schemathesis_finds_nothing_in_a_few_examples(service: str, tmp_path: Path) -> None:
    _explored(service, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "1")


@pytest.mark.slow
def test_schemathesis_finds_nothing_with_a_token_and_every_phase(colour_guard: Path, tmp_path: Path) -> None:
    with running_service(colour_guard, env={"GUARD_TOKEN": "secret", "GUARD_TIMEOUT_S": "20"}) as base:
        opened = ["--header", "Authorization: Bearer secret", "--max-examples", "60"]
        _explored(base, tmp_path, *opened)
