"""What docs/deploy gives to copy: it parses, names what exists, and keeps the rules that its comments promise."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.runner import MARGIN_S, STOP_S
from serving.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
SETTINGS = {f"GUARD_{name.upper()}" for name in Settings.model_fields}
CONTAINERFILES = ["Containerfile.cpu", "Containerfile.gpu"]


def instructions(name: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, its argument) of a container file, continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / name).read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def environment(name: str) -> dict[str, str]:
    words = [word for kind, rest in instructions(name) if kind == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def one(kind: str) -> dict[str, Any]:
    (found,) = [part for part in documents("kubernetes.yaml") if part["kind"] == kind]
    return found


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_every_file_parses(path: Path) -> None:
    if path.suffix in (".yaml", ".yml"):
        assert all(documents(path.name))
    elif path.suffix == ".json":
        assert json.loads(path.read_text())
    elif path.suffix == ".service":
        assert unit()
    else:
        assert path.name.startswith("Containerfile.")


def test_whatever_stops_the_service_waits_as_long_as_it_may_take() -> None:
    longest = Settings(model=Path("guard.onnx")).timeout_s + MARGIN_S + STOP_S
    (compose,) = documents("compose.yaml")
    given = [
        compose["services"]["guard"]["stop_grace_period"].removesuffix("s"),
        one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        unit()["Service"]["TimeoutStopSec"],
    ]
    assert [float(seconds) for seconds in given] == [longest] * 3


# ---------------------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize("name", CONTAINERFILES)
def test_a_container_is_slim_pinned_and_nobody_in_particular(name: str) -> None:
    found = instructions(name)
    assert len([rest for kind, rest in found if kind == "FROM"]) == 2  # the compiler and pip's leavings stay behind
    for kind, rest in found:
        if kind == "FROM":
            assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+( AS build)?", rest), rest
        assert kind != "ADD"
    kinds = [kind for kind, _ in found]
    user = next(rest for kind, rest in found if kind == "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)  # a number: Kubernetes' runAsNonRoot cannot read names
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert {"HEALTHCHECK", "ENTRYPOINT", "EXPOSE"} <= set(kinds)


@pytest.mark.parametrize("name", CONTAINERFILES)
def test_what_is_copied_exists_and_reaches_the_build(name: str) -> None:
    ignored = (DEPLOY / f"{name}.dockerignore").read_text().split()
    assert ignored[0] == "*"
    for kind, rest in instructions(name):
        if kind == "COPY" and "--from=" not in rest:
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored


@pytest.mark.parametrize(("name", "extra"), [("Containerfile.cpu", "cpu"), ("Containerfile.gpu", "gpu")])
def test_it_installs_the_extras_that_serve_and_never_torch(name: str, extra: str) -> None:
    (install,) = [rest for kind, rest in instructions(name) if kind == "RUN" and "pip install" in rest]
    assert f'".[{extra},serve]"' in install
    assert "--no-cache-dir" in install
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not [item for chosen in (extra, "serve") for item in extras[chosen] if re.match(r"torch|ood-guard", item)]


@pytest.mark.parametrize("name", CONTAINERFILES)
def test_its_environment_is_settings_and_writes_to_tmp_alone(name: str) -> None:
    found = environment(name)
    assert {key for key in found if key.startswith("GUARD_")} <= SETTINGS
    assert "GUARD_TOKEN" not in found  # a secret has no place in an image
    assert found["HOME"] == str(Path(found["BENTOML_HOME"]).parent) == "/tmp"
    (entry,) = [json.loads(rest) for kind, rest in instructions(name) if kind == "ENTRYPOINT"]
    assert entry[:2] == ["guard", "serve"]


# ---------------------------------------------------------------------------------------------------------- kubernetes


def test_the_kinds_refer_to_each_other() -> None:
    deployment = one("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert one("Service")["spec"]["selector"].items() <= labels.items()
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    target = one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in one("Service")["spec"]["ports"]} <= ports
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_a_pod_is_confined_probed_and_given_its_token_from_a_secret() -> None:
    spec = one("Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == int(dict(instructions("Containerfile.cpu"))["USER"].split(":")[0])
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    assert {"requests", "limits"} <= set(container["resources"])
    settings = {entry["name"]: entry for entry in container["env"]}
    assert set(settings) <= SETTINGS
    assert "secretKeyRef" in settings["GUARD_TOKEN"]["valueFrom"]
    assert spec["terminationGracePeriodSeconds"] > Settings().timeout_s
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}


# ------------------------------------------------------------------------------------------------- compose and systemd


def test_compose_confines_the_guard_and_mounts_what_exists() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    guard = services["guard"]
    assert (guard["read_only"], guard["cap_drop"], guard["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    assert (DEPLOY / guard["build"]["context"] / guard["build"]["dockerfile"]).resolve().is_file()
    assert set(guard["environment"]) <= SETTINGS
    users = {"./models", "./token"}  # theirs
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for source in (volume.split(":")[0] for volume in service["volumes"]):
            assert source in users or source in compose["volumes"] or (DEPLOY / source).is_file(), source


def test_prometheus_asks_the_guard_with_its_token() -> None:
    (prometheus,), (compose,) = documents("prometheus.yml"), documents("compose.yaml")
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["guard:3000"]}]
    mounts = [volume.split(":")[1] for volume in compose["services"]["prometheus"]["volumes"]]
    assert job["authorization"]["credentials_file"] in mounts
    assert set(prometheus.get("rule_files", [])) <= set(mounts)


def unit() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string((DEPLOY / "ood-guard.service").read_text())
    return parsed


def test_the_systemd_unit_is_confined() -> None:
    service = unit()["Service"]
    assert (service["DynamicUser"], service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "yes", "strict")
    text = (DEPLOY / "ood-guard.service").read_text()
    assert set(re.findall(r"\bGUARD_[A-Z_]+(?==)", text)) <= SETTINGS
    assert "GUARD_TOKEN" not in "".join(line for line in text.splitlines() if not line.startswith("#"))


def test_systemd_itself_finds_the_unit_sound(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "ood-guard.service"
    text = (DEPLOY / "ood-guard.service").read_text()
    copy.write_text(text.replace("/opt/guard/bin/guard", "/bin/true"))  # the only line that names what is not here
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert "ood-guard.service" not in done.stderr, done.stderr


# --------------------------------------------------------------------------------------------------------------- bento


def test_a_bento_installs_what_the_extras_name() -> None:
    (bento,) = documents("bentofile.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert bento["python"]["packages"] == [*project["dependencies"], *extras["cpu"], *extras["serve"]]
    assert {entry["name"] for entry in bento["envs"]} <= SETTINGS
