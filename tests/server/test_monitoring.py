"""What docs/ has for those who run it: Grafana's dashboard, Prometheus' alerts, and systemd's unit."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed import Server, Swarm

from docs import code, table
from qmaster.server import config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ALERTS = DOCS / "alerts.yml"
ALERT_TESTS = Path(__file__).with_name("alerts_test.yml")
UNIT = DOCS / "quartermaster.service"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

# Prometheus' own, of each target; and of a histogram.
ADDED = {"instance", "job", "le"}
PARTS = re.compile(r"_(bucket|count|sum)$")


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=60)


# --- what an expression names -----------------------------------------------------------------------------------------


def metrics_in(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression in PromQL, each with the labels that are asked of it."""
    found: dict[str, set[str]] = {}
    bare = re.sub(r'"[^"]*"', '""', expression)
    for name, matchers in re.findall(r"\b((?:qmaster|process)_\w+|up)\b(?:\{(.*?)\})?", bare):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers))
    return found


def grouped_in(expression: str) -> set[str]:
    """The labels that it is grouped by."""
    return {label for group in re.findall(r"\bby \((.*?)\)", expression) for label in re.split(r",\s*", group)}


def test_what_an_expression_names_is_found() -> None:
    """Of each metric its labels, and what is grouped by; nothing inside of strings."""
    expression = 'max by (a, le) (rate(qmaster_x_total{b="up{c=", d!~"e"}[5m])) / up > qmaster_y'
    assert metrics_in(expression) == {"qmaster_x_total": {"b", "d"}, "up": set(), "qmaster_y": set()}
    assert grouped_in(expression) == {"a", "le"}


def documented() -> dict[str, set[str]]:
    """Each metric of the documents, which are compared with what is told, and its labels."""
    return {code(row["metric"])[0]: set(code(row["labels"])) for row in table("Metrics", having="metric")}


def check(expression: str) -> None:
    """Raises AssertionError: a metric or a label in it is not there."""
    there, labels = documented(), set(ADDED)
    for name, asked in metrics_in(expression).items():
        if name.startswith("qmaster_"):
            family = name if name in there else PARTS.sub("", name)
            assert family in there, name
            assert asked <= there[family] | ADDED, expression
            labels |= there[family]
    assert grouped_in(expression) <= labels, expression
    assert metrics_in(expression), expression


def rules() -> list[tuple[str, str]]:
    """Each alert with its expression, without a library that reads YAML."""
    found = []
    for part in re.split(r"- alert: ", ALERTS.read_text(encoding="utf-8"))[1:]:
        name, rest = part.split("\n", 1)
        expression = re.search(r"expr: (\|\n.*?|.*?)\n +(?:for|labels): ", rest, re.DOTALL)
        assert expression
        found.append((name, expression[1].removeprefix("|")))
    return found


def expressions() -> Iterator[str]:
    """All of the dashboard."""
    yield from (target["expr"] for panel in PANELS for target in panel.get("targets", ()))
    yield from (each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query")
    yield from (each["expr"] for each in DASHBOARD["annotations"]["list"])


# --- the dashboard ----------------------------------------------------------------------------------------------------


def test_the_dashboard_draws_what_there_is() -> None:
    """Each metric and each label of each expression is one of ours."""
    for expression in expressions():
        check(expression)


def test_the_dashboard_draws_all_there_is() -> None:
    """A new metric wants a panel."""
    drawn = {PARTS.sub("", name) if name not in documented() else name for e in expressions() for name in metrics_in(e)}
    assert documented().keys() <= drawn


def test_a_mistake_in_an_expression_is_seen() -> None:
    """A metric, a label that is matched and a label that is grouped by, which are not there; or no metric at all."""
    for wrong in (
        "qmaster_nothing",
        'qmaster_services{state="running"}',
        "sum by (function) (qmaster_services)",
        "vector(1)",
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_the_panels_have_a_place_and_words() -> None:
    """No two share an id or a cell of the grid; each says what it shows, in which unit."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        its = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not its & cells, panel["title"]
        assert max(x for x, _ in its) < 24
        cells |= its
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert {each["uid"] for each in (panel["datasource"], *(t["datasource"] for t in panel["targets"]))} == {
                "${datasource}"
            }


@pytest.mark.engine
def test_prometheus_reads_what_is_drawn(tmp_path: Path) -> None:
    """Each expression is PromQL, once Grafana has filled in its variables."""
    filled = [
        each.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$function", ".*")
        for each in expressions()
        if not each.startswith("label_values(")
    ]
    assert not [each for each in filled if "$" in each]
    groups = [{"name": "g", "rules": [{"record": f"r{i}", "expr": each} for i, each in enumerate(filled)]}]
    path = tmp_path / "rules.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": groups}))
    told = command("promtool", "check", "rules", path)
    assert told.returncode == 0, told.stderr
    assert f"{len(filled)} rules found" in told.stdout


@pytest.mark.engine
def test_the_metrics_of_a_server_are_there(start_server: Any, swarm: Swarm) -> None:
    """Each family that is drawn or warned of is in the text of a server that has just started."""
    server: Server = start_server(swarm.manager.host)
    text = server.call("GET", "/metrics").text
    families = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    every = [*expressions(), *(expression for _, expression in rules())]
    for name in {name for expression in every for name in metrics_in(expression)} - {"up"}:
        assert {name, PARTS.sub("", name)} & families, name


# --- the alerts -------------------------------------------------------------------------------------------------------


def test_alerts_are_of_what_there_is() -> None:
    """Each says how bad it is and what to do."""
    text = ALERTS.read_text(encoding="utf-8")
    assert len(rules()) > 10
    for name, expression in rules():
        check(expression)
        assert name.startswith("Quartermaster")
    for key in ("severity: ", "summary: ", "action: "):
        assert text.count(key) == len(rules())
    assert set(re.findall(r"severity: (\w+)", text)) == {"critical", "warning"}


def test_each_alert_is_tested_both_ways() -> None:
    """That it fires, and that it is quiet where all is well."""
    text = ALERT_TESTS.read_text(encoding="utf-8")
    quiet, *loud = re.split(r"\n  - name: (?!all is well)", text)
    for name, _ in rules():
        assert f"alertname: {name}}}" in quiet, name
        assert any(f"alertname: {name}\n        exp_alerts:" in part for part in loud), name


@pytest.mark.engine
@pytest.mark.parametrize("words", [("check", "rules", ALERTS), ("test", "rules", ALERT_TESTS)])
def test_prometheus_takes_the_alerts(words: tuple[str | Path, ...]) -> None:
    """As its own tool checks and tests them."""
    told = command("promtool", *words)
    assert told.returncode == 0, told.stdout + told.stderr


# --- the unit ---------------------------------------------------------------------------------------------------------


def settings() -> dict[str, list[str]]:
    """What the unit sets, by name."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_the_server_with_options_that_it_has() -> None:
    """Its environment, and time enough for the requests that are open."""
    unit = settings()
    (start,) = unit["ExecStart"]
    assert start.endswith("/bin/python -m qmaster")
    given = dict(word.split("=", 1) for word in unit["Environment"][0].split())
    known = code(" ".join(row["environment"] for row in table("Options", having="flag")))
    assert given.keys() <= set(known)
    assert given["TOKEN_FILE"] == "%d/" + unit["LoadCredential"][0].split(":")[0]
    loaded = config.load({"token": "x" * 40}, {"QMASTER_DATA_DIR": given["QMASTER_DATA_DIR"]})
    assert int(unit["TimeoutStopSec"][0]) > loaded.shutdown_timeout
    assert loaded.data_dir == f"%S/{unit['StateDirectory'][0]}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """It knows each setting, and counts the unit among the well guarded."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/quartermaster/bin/python", "/usr/bin/env"))
    told = command("systemd-analyze", "verify", "--man=no", path)
    assert (told.returncode, told.stderr) == (0, "")
    guarded = command("systemd-analyze", "security", "--offline=true", path).stdout
    exposure = re.search(r"exposure level .*: ([\d.]+)", guarded)
    assert exposure
    assert float(exposure[1]) < 2.5
