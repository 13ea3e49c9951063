"""What deploys Tidemark fits it: files are what their schemas ask, commands and settings are ours, ports and paths are answered."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

import tidemark
from flows.settings import load_settings
from online_model.serving.metrics import ENDPOINTS
from online_model.serving.token import OPEN
from tests.ops.compose import COMPOSE, asked, content, ours, port_of
from tests.processes import ROOT

PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"
KUBERNETES = "1.34"
MANIFESTS = sorted((ROOT / "deploy/k8s").glob("*.yaml"))


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> click.Context:
    """Let our own command line take a command, and run nothing."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command: click.Command = tidemark.cli
    context = command.make_context("tidemark", list(arguments))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return context


# Compose -----------------------------------------------------------------------------------------------------------------------------


def schema_check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_compose_file_is_one(tmp_path: Path) -> None:
    done = schema_check(COMPOSE)
    assert done.returncode == 0, done.stdout
    broken = content()
    broken["services"]["flows"]["restart_policy"] = "always"
    (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(broken))
    assert schema_check(tmp_path / "docker-compose.yml").returncode == 1, "a check that lets anything pass"


def test_all_parts_are_there() -> None:
    services = set(content()["services"])
    parts = {"kafka", "redis", "topics", "flows", "examples", "online", "archiver", "checkpoints", "learner", "retrain", "serving", "audit"}
    assert parts | {"skew", "report"} <= services
    assert {"prometheus", "grafana"} <= services
    [flows] = [service.command for service in ours() if service.name == "flows"]
    assert flows[flows.index("--workers") + 1] == "2"


@pytest.mark.parametrize("service", ours(), ids=lambda service: service.name)
def test_commands_and_settings_are_ours(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(environment=service.environment)
    assert settings.kafka
    context = parse(service.command, monkeypatch, service.environment)
    assert context.obj == settings
    if service.name != "topics":
        assert asked(service) == (service.port, "/healthz" if service.name == "serving" else "/metrics")
        assert asked(service)[1].strip("/") in ENDPOINTS
    with pytest.raises(click.UsageError):
        parse([*service.command, "--no-such-option"], monkeypatch, service.environment)


def test_services_are_held_on_a_short_leash() -> None:
    for name, service in content()["services"].items():
        assert not re.search(r":latest$|^[^:]*$", service["image"]), f"{name}: image without a version"
        assert service["read_only"] is True, name
        assert not re.match(r"(0|root)\b", service["user"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] in ("unless-stopped", "on-failure"), name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert name == "topics" or service["healthcheck"]["test"], name
        assert "privileged" not in service
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), f"{name}: published beyond loopback"
        for volume in service.get("volumes", ()):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert rest.endswith(":ro"), volume
                assert (ROOT / source).exists(), volume
            else:
                assert source in content()["volumes"], volume
        for other, how in service.get("depends_on", {}).items():
            condition = "service_completed_successfully" if other == "topics" else "service_healthy"
            assert how == {"condition": condition}, name


def test_no_file_holds_a_secret() -> None:
    for name, service in content()["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
    for path in MANIFESTS:
        assert not any(found["kind"] == "Secret" for found in yaml.safe_load_all(path.read_text("utf-8")))


def test_serving_beyond_loopback_asks_for_a_token() -> None:
    """Its console tells users and raw records, and the API anything of anybody. An optional secret would be none where it is missing."""
    [compose] = [service for service in ours() if service.command[0] == "serve"]
    assert "0.0.0.0" in compose.command
    assert re.fullmatch(r"\$\{TIDEMARK_TOKEN:\?[^}]+\}", compose.environment["TIDEMARK_TOKEN"])
    containers = [container for _, pod in pods() for container in pod["containers"] if container["args"][0] == "serve"]
    assert containers
    for container in containers:
        [token] = [one for one in container["env"] if one["name"] == "TIDEMARK_TOKEN"]
        assert set(token) == {"name", "valueFrom"}
        assert token["valueFrom"] == {"secretKeyRef": {"name": "tidemark-token", "key": "token"}}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["path"] in OPEN
    assert "secret generic tidemark-token --from-literal=token=" in (ROOT / "docs" / "deploy.md").read_text("utf-8")


def test_prometheus_asks_whoever_answers() -> None:
    jobs = yaml.safe_load(PROMETHEUS.read_text("utf-8"))["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    assert targets.pop("prometheus") == ["localhost:9090"]
    assert targets == {service.name: [f"{service.name}:{service.port}"] for service in ours() if service.port is not None}
    ports = [service.port for service in ours() if service.port is not None]
    assert len(set(ports)) == len(ports)


# The image ---------------------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_image_is_small_and_pinned() -> None:
    told = instructions()
    bases = [rest.split(" AS ")[0] for what, rest in told if what == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.1[12]\.\d+-slim-bookworm", base) for base in bases), bases
    assert {what for what, _ in told} <= {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert [rest for what, rest in told if what == "USER"] == ["10001:10001"]
    assert [what for what, _ in told].index("USER") > max(i for i, (what, _) in enumerate(told) if what == "RUN")
    for what, rest in told:
        assert what not in ("ENTRYPOINT", "CMD") or rest.startswith("["), "a shell would take signals away"
        assert not re.search(r"apt-get|curl|wget|sudo|chmod 777", rest) or what != "RUN", rest
        # Whatever pip installs is pinned: by the line itself, or by the constraints.
        assert "pip install" not in rest or "--constraint constraints.txt" in rest or "torch==" in rest
    torch = re.search(r"torch==[\d.]+", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert torch
    assert any(torch[0] in rest.split() for _, rest in told)
    assert dict(told)["STOPSIGNAL"] == "SIGTERM"


def test_the_image_has_what_is_installed() -> None:
    taken = {path for what, rest in instructions() if what == "COPY" and "--from" not in rest for path in rest.split()[:-1]}
    assert all((ROOT / path).exists() for path in taken)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    found = re.search(r"^include = \[(.*)\]", project, re.MULTILINE)
    assert found
    packages = {name.strip('"* ') for name in found[1].split(",")}
    assert packages | {"tidemark.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == taken
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == taken


# Kubernetes --------------------------------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    found = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text("utf-8"))]
    return [one for one in found if one["kind"] != "Kustomization"]


def pods() -> list[tuple[str, dict[str, Any]]]:
    out = []
    for one in manifests():
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one.get("spec", {})
        if "template" in spec:
            out.append((f"{one['kind']} {one['metadata']['name']}", spec["template"]["spec"]))
    return out


def test_manifests_are_what_kubernetes_takes() -> None:
    for one in manifests():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    kinds = {one["kind"] for one in manifests()}
    assert {"StatefulSet", "Deployment", "CronJob", "Job", "Service", "ConfigMap", "PersistentVolumeClaim"} == kinds
    broken = copy.deepcopy(next(one for one in manifests() if one["kind"] == "StatefulSet"))
    broken["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)
    [listed] = [yaml.safe_load(path.read_text("utf-8")) for path in MANIFESTS if path.name == "kustomization.yaml"]
    assert {path.name for path in MANIFESTS} == {*listed["resources"], "kustomization.yaml"}


def test_pods_run_our_commands_with_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    [config] = [one["data"] for one in manifests() if one["kind"] == "ConfigMap"]
    claims = {one["metadata"]["name"] for one in manifests() if one["kind"] == "PersistentVolumeClaim"}
    compose = {service.name: service.command for service in ours()}
    seen = set()
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {"data"} if name.startswith("StatefulSet") else set()
        assert all(volume["persistentVolumeClaim"]["claimName"] in claims for volume in pod["volumes"] if "persistentVolumeClaim" in volume)
        for container in pod["containers"]:
            seen.add(container["name"])
            parse(container["args"], monkeypatch, config)
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            if container["name"] not in ("topics", "retrain"):
                assert container["args"] == compose[container["name"]], "as in docker-compose.yml"
                port = port_of(container["args"])
                assert container["ports"][0]["containerPort"] == port
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    assert container[probe]["httpGet"]["port"] == port
                    assert container[probe]["httpGet"]["path"].strip("/") in ENDPOINTS
    assert seen == set(compose)
