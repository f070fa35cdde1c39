"""Alert rules and dashboard speak of series that the webhook really has, with labels that these really carry."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.domain.observed import Observed
from app.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]
MONITORING = ROOT / "metacontroller" / "monitoring"
NAME = re.compile(r"\btidb_backup_\w+")
SELECTOR = re.compile(r"(tidb_backup_\w+)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\) \(")
RUN = {"metadata": {"namespace": "shop", "name": "one"}, "spec": {}}
LOG = {"metadata": {"namespace": "shop", "name": "log"}, "spec": {}}
SCHEDULE = {
    "metadata": {"namespace": "shop", "name": "nightly", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"schedule": "0 2 * * *"},
}
DAY = {"from": "2026-01-01T02:00:00Z", "to": "2026-01-02T02:00:00Z"}


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Every series of an exposition that has all of them, with its labels."""
    metrics = Metrics(series_ttl=3600, max_crs=2)
    times = {
        "timeStarted": DAY["from"],
        "timeCompleted": DAY["to"],
        "backupSize": 1,
        "cleanStatus": {"deleted": 1, "failed": 0},
    }
    metrics.note("backup", Observed(parent=RUN, children={}), {"phase": "Complete", **times}, gone=False)
    log = {"phase": "Running", "commitTs": "450", "logSubCommandStatuses": {"log-start": {}}}
    metrics.note("backup", Observed(parent=LOG, children={}), log, gone=False)
    backup = {
        "metadata": {"namespace": "shop", "name": "b"},
        "status": {"phase": "Complete", "conditions": [{"type": "Complete", "status": "True"}]},
    }
    status = {"lastBackup": "b", "lastSuccessTime": DAY["to"], "nextBackupTime": DAY["to"], "recoveryWindow": DAY}
    observed = Observed(parent=SCHEDULE, children={"Backup.pingcap.com/v1alpha1": {"shop/b": backup}})
    metrics.note("backupschedule", observed, {**status, "retention": {"kept": 1, "oldest": DAY["from"]}}, gone=False)
    metrics.answered("backup", "sync", 200, 0.001)
    metrics.dropped("backupschedule", "maxBackups")
    metrics.connection_dropped("too_many")
    metrics.note("restore", Observed(parent=RUN, children={}), {"phase": ["x"]}, gone=False)
    for name in ("two", "three"):
        metrics.note("restore", Observed(parent={"metadata": {"namespace": "shop", "name": name}}, children={}), {}, gone=False)
    metrics.exposition()
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def rules() -> list[dict[str, Any]]:
    spec = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]
    return [rule for group in spec["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return loaded


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda part: part if " " not in part else "")
def test_an_expression_names_series_and_labels_that_exist(series: dict[str, set[str]], where: str, expression: str) -> None:
    used = set(NAME.findall(expression))
    assert used <= set(series), f"{where}: unknown series"
    assert used or "up{" in expression
    for name, selector in SELECTOR.findall(expression):
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= series[name], f"{where}: {name} has no such label"
    labels = set().union(*(series[name] for name in used)) | {"le"}
    for grouping in GROUPING.findall(expression):
        assert set(grouping.replace(" ", "").split(",")) <= labels, f"{where}: by ({grouping})"
    assert expression.count("(") == expression.count(")")


def test_every_gauge_of_a_schedule_is_shown_or_watched(series: dict[str, set[str]]) -> None:
    used = {name for _, expression in expressions() for name in NAME.findall(expression)}
    assert {name for name in series if name.startswith("tidb_backup_schedule_")} <= used


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    path, anchor = rule["annotations"]["runbook"].split("#")
    headings = {line[3:].strip().lower() for line in (ROOT / path).read_text().splitlines() if line.startswith("## ")}
    assert anchor == rule["alert"].lower()
    assert anchor in headings


def test_the_runbook_has_no_page_for_an_alert_that_is_gone() -> None:
    headings = {
        line[3:].strip() for line in (ROOT / "docs" / "alerts.md").read_text().splitlines() if line.startswith("## TiDB")
    }
    assert headings == {rule["alert"] for rule in rules()}


def test_labels_in_a_summary_are_ones_that_the_alert_carries() -> None:
    for rule in rules():
        carried = {label.strip() for grouping in GROUPING.findall(rule["expr"]) for label in grouping.split(",")}
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert named <= carried, rule["alert"]


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
