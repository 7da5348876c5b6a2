"""How long the command line takes: `holdfast --help`, and `holdfast status` of a server that is up.

    python benchmarks/startup.py [--quick]

Wall time from the start of the process to its end, in turns, median of 21.
"""

import os
import shutil
import subprocess
import sysconfig
import time

from common import Databases, Options, Section, at_most, main, median, percentile, say, start_server

BARS = {"--help": 0.25, "status": 0.4}


def run(options: Options, databases: Databases) -> Section:
    """Measure."""
    section = Section(
        "The command line",
        "Wall time of a whole process, in turns.",
        ["what", "runs", "p99 s"],
    )
    program = shutil.which("holdfast", path=sysconfig.get_path("scripts"))
    assert program
    took: dict[str, list[float]] = {verb: [] for verb in BARS}
    with start_server(databases.sqlite()) as server:
        environment = os.environ | {"HOLDFAST_URL": server.url}
        for number in range(options.of(21, 3) + 1):
            for verb, times in took.items():
                begun = time.perf_counter()
                subprocess.run(
                    [program, verb], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=60
                )
                if number:  # the first brings the files into memory
                    times.append(time.perf_counter() - begun)
    for verb, times in took.items():
        section.add(
            [f"`holdfast {verb}`", str(len(times)), f"{percentile(times, 0.99):.2f}"],
            median(times),
            at_most(BARS[verb], "s"),
        )
        say(f"  holdfast {verb}: {median(times):.2f} s")
    return section


if __name__ == "__main__":
    main(run, __doc__)
