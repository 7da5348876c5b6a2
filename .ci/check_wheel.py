"""The wheel holds the five packages at its top, with their data, and nothing else."""

import sys
from pathlib import Path
from zipfile import ZipFile

ROOTS = ("queue_core", "server", "dashboard_api", "worker")


def expected(checkout: Path) -> set[str]:
    """Every file of the five packages, at its place in the wheel."""
    return {
        path.relative_to(checkout / root).as_posix()
        for root in ROOTS
        for path in (checkout / root).glob("*/**/*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def main(wheel: str) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.rpartition(".dist-info/")[2] for name in archive.namelist()} - {""}
    wanted = expected(Path(__file__).parent.parent)
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= metadata, metadata
    assert names == wanted, f"missing: {sorted(wanted - names)}; too much: {sorted(names - wanted)}"
    packages = {name.partition("/")[0] for name in names}
    for package in sorted(packages):
        assert f"{package}/__init__.py" in names, f"{package} is no package"
        assert f"{package}/py.typed" in names, f"{package} does not say that it is typed"
    assert packages == {
        "holdfast",
        "holdfast_core",
        "holdfast_dashboard",
        "holdfast_server",
        "holdfast_worker",
    }, packages
    assert any(name.startswith("holdfast_core/db/migrations/versions/") for name in names), "no migrations"
    assert {"holdfast_dashboard/static/tasks.html", "holdfast_dashboard/static/app.js"} <= set(names), (
        "no dashboard"
    )
    print(f"{wheel}: {len(names)} files of {len(packages)} packages")


if __name__ == "__main__":
    main(*sys.argv[1:])
