"""The files of deploy/ name options, paths and metrics that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import generate_latest

from pyllmclf.cli.main import app
from pyllmclf.server.app import ROUTES
from pyllmclf.server.metrics import Metrics

FOLDER = Path(__file__).parents[1] / "deploy"
DOCS = FOLDER.parent / "docs" / "serving.md"
GETS = {path for method, path in ROUTES if method == "GET"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def metric_names() -> set[str]:
    text = generate_latest(Metrics().registry).decode()
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def check_arguments(arguments: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    serve = command.commands["serve"]
    serve.make_context("serve", [str(each) for each in arguments])


def test_arguments_of_the_containers() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    check_arguments(json.loads(re.findall(r"^CMD (\[.*)", dockerfile, re.MULTILINE)[-1]))
    check_arguments(documents("compose.yaml")[0]["services"]["server"]["command"])
    (container,) = documents("kubernetes.yaml")[0]["spec"]["template"]["spec"]["containers"]
    check_arguments(container["args"])


def test_probes_ask_paths_that_exist() -> None:
    (container,) = documents("kubernetes.yaml")[0]["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in GETS
    check = re.search(r"http://127\.0\.0\.1:8000(/\w+)", (FOLDER / "Dockerfile").read_text())
    assert check is not None and check[1] in GETS


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((FOLDER / "grafana" / "dashboard.json").read_text())
    names = metric_names()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used = re.findall(r"pyllmclf_\w+", target["expr"])
            assert used
            for name in used:
                assert name in names or re.sub(r"_(bucket|sum|count)$", "", name) in names, name


def test_the_documentation_lists_all_metrics() -> None:
    listed = set(re.findall(r"`(pyllmclf_\w+)`", DOCS.read_text()))
    assert listed == {name for name in metric_names() if not name.endswith("_created")}


def test_prometheus_asks_the_server_of_the_compose_file() -> None:
    services = documents("compose.yaml")[0]["services"]
    (job,) = documents("prometheus.yaml")[0]["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["server:8000"] and "server" in services
    for source in (volume for name in ("prometheus", "grafana") for volume in services[name]["volumes"]):
        assert (FOLDER / source.split(":")[0]).is_file()


@pytest.mark.parametrize("line", re.findall(r"^pyllmclf serve (.*)$", DOCS.read_text(), re.MULTILINE))
def test_commands_of_the_documentation(line: str) -> None:
    check_arguments(shlex.split(line.partition("#")[0]))
