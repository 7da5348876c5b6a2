"""The page of guarantees says what the code does, and its figures are the run's own."""

import re
from pathlib import Path

from faults.nemesis import KINDS
from faults.report import BEGIN, END, Report, RoundFigures, read_report, write_into, write_report

DOCS = Path(__file__).parents[2] / "docs"


def figures(database: str, seed: int, *violations: str) -> RoundFigures:
    return RoundFigures(
        database,
        seed,
        {"claim ok": 1_000, "claim unknown": 20, "pause refused": 3, "unreachable": 9},
        {"server-killed": 2, "clock-jump": 1},
        400,
        31,
        [0.5, 1.25],
        [48.0, 52.0],
        list(violations),
    )


def test_a_report_adds_up(tmp_path: Path) -> None:
    report = Report(7, 3.0, [figures("postgresql", 7), figures("sqlite", 8, "gate: it leaked")])
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    told = (tmp_path / "report.md").read_text()
    assert "2 rounds in 3 minutes, seeds 7 to 8." in told
    assert "| operations | 1,023 | 1,023 | 2,046 |" in told
    assert "| … outcome unknown | 20 | 20 | 40 |" in told
    assert "| calls that reached no server, not counted | 9 | 9 | 18 |" in told
    assert "| changes of the pause | 30 | 30 | 60 |" in told
    assert "| faults | 3 | 3 | 6 |" in told
    assert "| … server-killed | 2 | 2 | 4 |" in told
    assert "| claims a second before an outage: median | 50 | 50 | 50 |" in told
    assert (
        "| … as many after it: median, worst (s), outages | 0.88, 1.25, 2 | 0.88, 1.25, 2 | 0.88, 1.25, 4 |"
        in told
    )
    assert "| **violations** | **0** | **1** | **1** |" in told
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_into(report, page)
    assert page.read_text() == f"before\n{BEGIN}\n{report.markdown()}\n{END}\nafter\n"


def test_the_figures_on_the_page_are_those_of_the_reported_run() -> None:
    page = (DOCS / "guarantees.md").read_text()
    report = DOCS / "guarantees.json"
    told = read_report(report).markdown() if report.exists() else "No long run has been made yet."
    assert page.split(BEGIN)[1].split(END)[0].strip() == told.strip()


def test_the_page_names_every_kind_of_fault() -> None:
    section = (DOCS / "guarantees.md").read_text().split("## The faults")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| .+ \| (yes)? ?\| (yes)? ?\|$", section, re.MULTILINE)
    assert {kind for kind, postgresql, _ in rows if postgresql} == set(KINDS["postgresql"])
    assert {kind for kind, _, sqlite in rows if sqlite} == set(KINDS["sqlite"])


def test_the_page_names_every_rule_of_the_checker() -> None:
    section = (DOCS / "guarantees.md").read_text().split("## The promises")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    source = "".join((Path(__file__).parent / name).read_text() for name in ("checker.py", "run.py"))
    assert named == set(re.findall(r"Violation\(\s*\"(\w+)\"", source))
