"""The files under serving/deploy: parsed, consistent with each other, and with what the service exposes and takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.observed_service import DEPLOY, dashboard_queries, metric_names, observed_service

from serving.limits import Settings
from serving.monitoring.drift import DISTANCE_THRESHOLD, MIN_FRAMES, PSI_THRESHOLD
from serving.monitoring.scrape import GPU_METRICS

YAMLS = sorted(path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*.y*ml"))


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def alert_rules() -> dict[str, str]:
    """Expression by alert."""
    return {rule["alert"]: rule["expr"] for group in load("prometheus/alerts.yml")["groups"] for rule in group["rules"]}


def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return value


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Of a Kubernetes container."""
    return {item["name"]: item["value"] for item in container["env"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with observed_service(tmp_path_factory.mktemp("models")) as address:
        yield address


@pytest.fixture(scope="module")
def exposed(url: str) -> set[str]:
    """Names of all samples that the service exposes, and of what it would with a GPU."""
    page = httpx.get(f"{url}/metrics", timeout=10).text
    names = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    return names | set(GPU_METRICS)


@pytest.mark.parametrize("name", YAMLS)
def test_every_file_is_yaml(name: str) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is missing")
@pytest.mark.parametrize("arguments", [("rules", "alerts.yml"), ("config", "--syntax-only", "prometheus.yml")])
def test_promtool_takes_them(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", "check", *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_dashboard_is_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] == "row" or panel["targets"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
    assert used <= variables | {"__rate_interval"}


def test_every_metric_of_dashboard_and_alerts_is_exposed(exposed: set[str]) -> None:
    queries = dashboard_queries(dashboard()) | alert_rules()
    assert len(queries) > 40
    missing = {name: unknown for name, query in queries.items() if (unknown := metric_names(query) - exposed)}
    assert not missing
    (variable,) = [item for item in dashboard()["templating"]["list"] if item["name"] == "pair"]
    assert metric_names(variable["query"]["query"]) <= exposed


def test_every_metric_of_the_documentation_is_exposed(exposed: set[str]) -> None:
    text = (DEPLOY / "prometheus" / "README.md").read_text()
    # A name that ends in "_" stands for all that begin so.
    named = {name for name in metric_names(text) if not name.endswith("_")}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed} | exposed
    # Seen only after a change of the default, and under longer names.
    assert named - families <= {"pipeprobe_promotions_total", "pipeprobe_video_job"}


def test_alerts_use_the_documented_thresholds() -> None:
    rules = alert_rules()
    assert rules["PipeprobeScoresDrifted"] == f"pipeprobe_drift_score_psi > {PSI_THRESHOLD}"
    assert rules["PipeprobeFramesDrifted"] == f"pipeprobe_drift_embedding_distance > {DISTANCE_THRESHOLD}"
    text = (DEPLOY / "prometheus" / "README.md").read_text()
    assert f"| threshold of the alert | {PSI_THRESHOLD} | {DISTANCE_THRESHOLD} |" in text
    assert f"from {MIN_FRAMES} frames on" in text
    assert set(re.findall(r"Pipeprobe\w+", text)) == set(rules)


def test_compose_finds_its_files_and_its_settings_are_settings() -> None:
    compose = load("compose/docker-compose.yml")
    service = compose["services"]["pipeprobe"]
    assert Settings.from_env(service["environment"]).log_format == "json"
    for name, other in compose["services"].items():
        for volume in other["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("../"):
                assert (DEPLOY / "compose" / source).exists(), f"{name}: {source}"
            else:
                assert source == "./keys" or source in compose["volumes"]
        assert set(other.get("secrets", ())) <= set(compose["secrets"])
    (scrape,) = load("prometheus/prometheus.yml")["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["pipeprobe:3000"]}]
    assert scrape["authorization"]["credentials_file"].startswith("/run/secrets/pipeprobe_metrics_key")
    (source,) = load("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_kubernetes_manifests_fit_each_other(exposed: set[str], url: str) -> None:
    base = load("kubernetes/base/kustomization.yaml")["resources"]
    found = {document["kind"]: document for document in (load(f"kubernetes/base/{name}") for name in base)}
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    for selector in ("Service", "PodDisruptionBudget", "Deployment"):
        wanted = found[selector]["spec"]["selector"]
        assert wanted.get("matchLabels", wanted) == labels
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
        assert httpx.get(url + container[probe]["httpGet"]["path"], timeout=10).status_code == 200
    settings = Settings.from_env(environment(container))
    assert pod["spec"]["terminationGracePeriodSeconds"] > settings.deadline_s
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    (metric,) = [item["pods"]["metric"]["name"] for item in scaler["metrics"]]
    (rule,) = load("kubernetes/prometheus-adapter-values.yaml")["rules"]["custom"]
    assert metric == rule["name"]["as"]
    assert metric_names(rule["seriesQuery"] + rule["metricsQuery"]) == {metric}
    assert metric in exposed


def test_the_gpu_variant_patches_what_there_is() -> None:
    overlay = load("kubernetes/gpu/kustomization.yaml")
    (patch,) = overlay["patches"]
    assert (DEPLOY / "kubernetes" / "gpu" / overlay["resources"][0] / "kustomization.yaml").is_file()
    patched, base = load(f"kubernetes/gpu/{patch['path']}"), load("kubernetes/base/deployment.yaml")
    assert patched["metadata"]["name"] == base["metadata"]["name"]
    (container,) = patched["spec"]["template"]["spec"]["containers"]
    assert container["name"] == base["spec"]["template"]["spec"]["containers"][0]["name"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert Settings.from_env(environment(container)).device == ("cuda",)


def test_every_folder_is_explained() -> None:
    for folder in (DEPLOY, *(path for path in DEPLOY.iterdir() if path.is_dir())):
        assert (folder / "README.md").is_file()


def test_a_bento_leaves_them_out() -> None:
    assert "serving/deploy/" in yaml.safe_load(Path(DEPLOY.parents[1] / "bentofile.yaml").read_text())["exclude"]
