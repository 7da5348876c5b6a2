"""What operators can measure, end to end, and that the pages about it name what there is."""

import ast
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from holdfast_core.services import MEASURES
from support.listeners import Statsd, receiver
from support.servers import start_server

ROOT = Path(__file__).parents[1]
SOURCES = ("queue_core", "server", "dashboard_api", "worker")
PAGE = (ROOT / "docs" / "observability.md").read_text("utf-8")
OPS = ROOT / "docs" / "ops"
PAUSE = "/api/system/worker-pause"
LEVELS = {"debug", "info", "warning", "error", "exception", "log"}


def rows(heading: str) -> list[list[str]]:
    """The cells of all tables under a heading, without those that head them."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def calls() -> Iterator[ast.Call]:
    """All calls in our sources."""
    for folder in SOURCES:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
                if isinstance(node, ast.Call):
                    yield node


def texts(node: ast.expr) -> list[str]:
    """The strings that an argument can be."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return texts(one) + texts(other)
        case _:
            raise AssertionError(f"line {node.lineno}: its name is not written out: {ast.unparse(node)}")


def log_events() -> dict[str, tuple[set[str], set[str]]]:
    """Each event that is logged: its levels and its fields."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for call in calls():
        match call.func:
            case ast.Attribute(value=ast.Name(id="log" | "_log"), attr=level) if level in LEVELS:
                pass
            case _:
                continue
        if level == "log":
            levels, name = (
                {text.lower() for text in re.findall(r"logging\.(\w+)", ast.unparse(call.args[0]))},
                1,
            )
        else:
            levels, name = {"error" if level == "exception" else level}, 0
        for event in texts(call.args[name]):
            known = found.setdefault(event, (set(), set()))
            known[0].update(levels)
            known[1].update(word.arg for word in call.keywords if word.arg not in {None, "exc_info"})
    return found


def test_the_table_of_metrics_is_what_the_code_measures() -> None:
    documented = [
        (in_code(statsd), *in_code(prometheus), kind, text)
        for statsd, prometheus, kind, text in rows("Metrics")
    ]
    assert documented == [
        (
            [*(["claims"] if measure.name == "claims" else []), *names],
            measure.prometheus + (f"{{{measure.label}}}" if measure.label else ""),
            measure.kind,
            measure.text,
        )
        for measure in MEASURES
        for names in [[measure.statsd(value) for value in measure.values or [None]]]
    ]
    assert len({name for statsd, *_ in documented for name in statsd}) == sum(
        len(row[0]) for row in documented
    )


def test_the_contract_names_metrics_that_there_are() -> None:
    section = (ROOT / "docs" / "contract.md").read_text("utf-8").split("## 11. ")[1]
    named = section.split("StatsD:")[1].split("; the same in")[0]
    there = {measure.statsd(value) for measure in MEASURES for value in measure.values or [None]}
    for name in in_code(named):
        stem = name.removesuffix(".STATUS").removesuffix(".STATE")
        assert name in there or any(one.startswith(f"{stem}.") for one in there), name


def test_the_table_of_spans_is_what_the_code_makes() -> None:
    documented = {in_code(row[0])[0]: set(in_code(row[2])) for row in rows("Spans")}
    documented.pop("METHOD ROUTE")  # the framework's own
    made: dict[str, set[str]] = {}
    attributes: set[str] = set()
    for call in calls():
        match call:
            case ast.Call(func=ast.Name(id="span"), args=[ast.Constant(value=str(name)), *_]):
                made.setdefault(name, set()).update(f"holdfast.{word.arg}" for word in call.keywords)
            case ast.Call(func=ast.Name(id="traced"), args=[ast.Constant(value=str(name)), *_]):
                made.setdefault(name, set()).add("holdfast.requests")
            case ast.Call(func=ast.Attribute(attr="set_attribute"), args=[ast.Constant(value=str(name)), *_]):
                attributes.add(name)
    assert documented.keys() == made.keys()
    assert set.union(*documented.values()) == set.union(*made.values()) | attributes - {"error.type"}
    for name, said in made.items():
        assert said <= documented[name], name


def test_the_tables_of_log_events_are_what_the_code_logs() -> None:
    documented = {
        in_code(event)[0]: (set(level.split(", ")), set(in_code(fields)))
        for event, level, fields, _ in rows("Log lines")
    }
    assert documented == log_events()


def scraped_until(url: str, name: str, wanted: float) -> dict[str, float]:
    """The metrics without labels, once one of them is what is wanted: processes look once a second."""
    for _ in range(400):
        text = httpx2.get(f"{url}/metrics").text
        found = {key: float(value) for key, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}
        if found[name] == wanted:
            return found
        threading.Event().wait(0.02)
    raise AssertionError(f"{name} has not become {wanted}")


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in json.loads((OPS / "grafana-dashboard.json").read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def rules() -> list[Any]:
    (group,) = yaml.safe_load((OPS / "prometheus-rules.yml").read_text("utf-8"))["groups"]
    found: list[Any] = group["rules"]
    return found


def test_dashboard_and_rules_name_metrics_and_labels_that_there_are() -> None:
    labels = {measure.prometheus: measure for measure in MEASURES if measure.kind != "timer"}
    parts = ("_bucket", "_sum", "_count")
    timers = {
        f"{measure.prometheus}{part}" for measure in MEASURES if measure.kind == "timer" for part in parts
    }
    seen: set[str] = set()
    for expression in expressions():
        assert expression.count("(") == expression.count(")"), expression
        for name, selector in re.findall(r"(holdfast_\w+)(?:\{([^}]*)\})?", expression):
            assert name in labels or name in timers, name
            seen.add(name)
            for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
                assert (label, value in labels[name].values) == (labels[name].label, True), expression
        for label in re.findall(r"by \((\w+)\) \(", expression):
            assert label == "le" or label in {measure.label for measure in MEASURES}, expression
    assert {"holdfast_worker_pause_violations", "holdfast_worker_pause_sla_exceeded"} <= seen


def test_rules_are_of_the_form_that_prometheus_takes() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((OPS / "grafana-dashboard.json").read_text("utf-8"))["panels"]:
        at = panel["gridPos"]
        place = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in place) < 24
        assert not place & taken, panel["title"]
        taken |= place


@pytest.mark.requirement("OBS-01")
@pytest.mark.requirement("NFR-002")
def test_a_pause_that_lasts_too_long_is_told_of_by_metric_log_line_banner_and_webhook_once_by_two_processes(
    postgres_database_url: str,
) -> None:
    with (
        Statsd() as statsd,
        receiver() as alerts,
        start_server(
            postgres_database_url,
            "--workers",
            "2",
            HOLDFAST_PAUSE_SLA_SECONDS="0.5",
            HOLDFAST_STATSD_URL=statsd.url,
            HOLDFAST_WEBHOOK_URL=alerts.url,
            HOLDFAST_WEBHOOK_SECRET="whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
            HOLDFAST_LOG_FORMAT="json",
        ) as server,
    ):
        statsd.hear(lambda s: s.last("worker_pause.state") == 0)
        assert "longer than it should" not in httpx2.get(f"{server.url}/tasks").text
        body = {"action": "pause", "mode": "drain", "reason": "an upgrade"}
        httpx2.post(server.url + PAUSE, json=body).raise_for_status()
        (delivery,) = alerts.wait(1)
        assert delivery.json["data"]["system"]["reason"] == "an upgrade"
        statsd.hear(
            lambda s: (
                s.last("worker_pause.sla_exceeded") == 1
                and s.total("worker_pause.webhooks.delivered") == 1
                and (s.last("worker_pause.duration_seconds") or 0) > 0.5
            )
        )
        for _ in range(2):
            metrics = scraped_until(server.url, "holdfast_worker_pause_sla_exceeded", 1)
        assert metrics["holdfast_worker_pause_state"] == 1
        assert metrics["holdfast_worker_pause_duration_seconds"] > 0.5
        for _ in range(4):  # whichever of the two answers
            assert "This pause has lasted longer than it should." in httpx2.get(f"{server.url}/tasks").text
        lines = [json.loads(line) for line in server.log.splitlines() if "pause_sla_exceeded" in line]
        assert [(line["level"], line["pause_version"], line["mode"], line["reason"]) for line in lines] == [
            ("warning", 2, "drain", "an upgrade")
        ]
        body = {"action": "resume", "reason": "done"}
        httpx2.post(server.url + PAUSE, json=body).raise_for_status()
        statsd.hear(
            lambda s: (
                s.total("worker_pause.resume") == 1
                and s.last("worker_pause.state") == 0
                and s.last("worker_pause.sla_exceeded") == 0
            )
        )
        assert len(alerts.deliveries) == 1
