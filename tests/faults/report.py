"""The figures of a run: report.json, and the same as a table. `python -m faults.report REPORT.json DOCS.md` puts that
table into a page, between its marks."""

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from faults.history import UNREACHABLE

__all__ = ["Report", "RoundFigures", "read_report", "write_into", "write_report"]

BEGIN: Final = "<!-- figures: begin -->"
END: Final = "<!-- figures: end -->"


@dataclass
class RoundFigures:
    """One round. `operations` by verb and outcome, and calls that reached no server, which are none; `recoveries`: how
    soon claims were back after an outage, in seconds, None: never; `rates`: claims a second before it."""

    database: str
    seed: int
    operations: dict[str, int]
    faults: dict[str, int]
    jobs: int
    versions: int
    recoveries: list[float | None]
    rates: list[float]
    violations: list[str]

    def count(self, outcome: str = "") -> int:
        """How many operations there were, or those that came to this."""
        return sum(
            number
            for name, number in self.operations.items()
            if name != UNREACHABLE and name.endswith(outcome)
        )

    def line(self) -> str:
        """It in a few words."""
        return (
            f"{self.count():,} operations, {sum(self.faults.values())} faults,"
            f" {self.jobs:,} jobs, version {self.versions}, recovered in"
            f" {[None if one is None else round(one, 2) for one in self.recoveries]},"
            f" {len(self.violations)} violations"
        )


@dataclass
class Report:
    """A run."""

    seed: int
    minutes: float = 0.0
    rounds: list[RoundFigures] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        """All of them."""
        return [one for figures in self.rounds for one in figures.violations]

    def markdown(self) -> str:
        """The figures as a page shows them."""
        databases = sorted({figures.database for figures in self.rounds})
        of = {name: [figures for figures in self.rounds if figures.database == name] for name in databases}

        def row(title: str, told: list[str]) -> str:
            return "| " + " | ".join([title, *told]) + " |"

        def total(rounds: list[RoundFigures], outcome: str = "") -> str:
            return f"{sum(one.count(outcome) for one in rounds):,}"

        def faults(rounds: list[RoundFigures]) -> Counter[str]:
            return sum((Counter(one.faults) for one in rounds), Counter[str]())

        columns = [*(of[name] for name in databases), self.rounds]
        kinds = sorted(faults(self.rounds))
        times = [[one for figures in rounds for one in figures.recoveries] for rounds in columns]
        rates = [[one for figures in rounds for one in figures.rates] for rounds in columns]
        lines = [
            f"{len(self.rounds)} rounds in {self.minutes:.0f} minutes, seeds {self.seed} to"
            f" {self.seed + len(self.rounds) - 1}.",
            "",
            row("", [*databases, "all"]),
            row("---", ["---:" for _ in columns]),
            row("operations", [total(rounds) for rounds in columns]),
            row("… accepted", [total(rounds, " ok") for rounds in columns]),
            row("… refused", [total(rounds, " refused") for rounds in columns]),
            row("… outcome unknown", [total(rounds, " unknown") for rounds in columns]),
            row(
                "calls that reached no server, not counted",
                [f"{sum(one.operations.get(UNREACHABLE, 0) for one in rounds):,}" for rounds in columns],
            ),
            row("jobs", [f"{sum(one.jobs for one in rounds):,}" for rounds in columns]),
            row(
                "changes of the pause", [f"{sum(one.versions - 1 for one in rounds):,}" for rounds in columns]
            ),
            row("faults", [f"{faults(rounds).total():,}" for rounds in columns]),
            *(row(f"… {kind}", [f"{faults(rounds)[kind]:,}" for rounds in columns]) for kind in kinds),
            row("claims a second before an outage: median", [_median(found) for found in rates]),
            row("… as many after it: median, worst (s), outages", [_seconds(found) for found in times]),
            row(
                "**violations**", [f"**{sum(len(one.violations) for one in rounds)}**" for rounds in columns]
            ),
        ]
        return "\n".join(lines)


def _median(found: list[float]) -> str:
    return f"{median(found):.0f}" if found else ""


def _seconds(found: list[float | None]) -> str:
    if not found:
        return ""
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return "never"
    return f"{median(known):.2f}, {max(known):.2f}, {len(known)}"


def read_report(path: Path) -> Report:
    """What `write_report` wrote."""
    told: dict[str, Any] = json.loads(path.read_text())
    return Report(told["seed"], told["minutes"], [RoundFigures(**one) for one in told["rounds"]])


def write_report(report: Report, folder: Path) -> None:
    """report.json and report.md."""
    (folder / "report.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    (folder / "report.md").write_text(report.markdown() + "\n")


def write_into(report: Report, page: Path) -> None:
    """Put the figures between the page's marks."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{report.markdown()}\n{END}{after}")


if __name__ == "__main__":
    write_into(read_report(Path(sys.argv[1])), Path(sys.argv[2]))
