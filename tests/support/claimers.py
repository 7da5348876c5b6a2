"""A process full of claimers, for the race tests: run as `python claimers.py URL COUNT [--without-gate]`.

It claims as fast as it can. Once each of its claimers has been told of a pause it prints `quiet VERSION`, and
goes on when the pause is over. `--without-gate` takes the door out of the claim's statement, which leaves the
plain sub-select on the pause row: the race test must then fail.
"""

import sys

import anyio
from anyio.to_thread import run_sync
from sqlalchemy import true

from holdfast_core.callers import LOCAL_OPERATOR
from holdfast_core.schemas import ClaimRequest, parse_request
from holdfast_core.services import Services
from holdfast_core.settings import load_settings
from holdfast_core.store import claims
from holdfast_server.compose import open_services


class Company:
    """What the claimers of this process tell each other."""

    def __init__(self, services: Services, size: int) -> None:
        self.services = services
        self.size = size
        self.told: dict[int, int] = {}

    async def claim_forever(self, name: str) -> None:
        request, _ = parse_request(ClaimRequest, {"workerId": name, "leaseSeconds": 3600})
        while True:
            answer = await self.services.claims.claim(LOCAL_OPERATOR, request)
            version = answer.system.version
            if answer.system.workers_paused:
                self.told[version] = self.told.get(version, 0) + 1
                if self.told[version] == self.size:
                    print(f"quiet {version}", flush=True)
                with self.services.watch.hub.subscribe("system") as changes:
                    while self.services.watch.known_version == version:
                        await changes.wait(0.01)
            elif answer.job is None:
                raise SystemExit("the queue ran dry: give the race more jobs")


async def main(url: str, size: int, without_gate: bool) -> None:
    if without_gate:
        claims.door_is_open = true
    async with open_services(load_settings(database_url=url)) as services, anyio.create_task_group() as tasks:
        company = Company(services, size)
        for number in range(size):
            tasks.start_soon(company.claim_forever, f"claimer-{number}")
        print("ready", flush=True)
        await run_sync(sys.stdin.read, abandon_on_cancel=True)  # until the test ends
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]), "--without-gate" in sys.argv)
