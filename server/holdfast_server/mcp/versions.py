"""Says when the pause has come to a new version: what subscribers of `holdfast://system` are told.

One look for all of them, at each announcement and now and then; the versions in between are known without
looking, since they grow by one. It is the hint that goes out, in order and each version once. What the pause
is, a subscriber reads.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from anyio import TASK_STATUS_IGNORED, CancelScope, Event
from anyio.abc import TaskGroup, TaskStatus
from mcp import MCPError, types

from holdfast_core.errors import HoldfastError
from holdfast_core.services import Services
from holdfast_server.mcp.answers import error_text
from holdfast_server.mcp.resources import SYSTEM_URI
from holdfast_server.mcp.subscriptions import Update

__all__ = ["MAX_VERSIONS_TOLD", "POLL_SECONDS", "SystemVersions"]

#: The poll behind the announcements; what it looks at is in memory.
POLL_SECONDS: Final = 0.5
#: A subscriber that is further behind is told of the newest versions only.
MAX_VERSIONS_TOLD: Final = 100


class SystemVersions:
    """The source of updates of `holdfast://system`. It looks out, in `tasks`, as long as somebody listens."""

    def __init__(self, services: Callable[[], Services], tasks: TaskGroup) -> None:
        self._services = services
        self._tasks = tasks
        self._version: int | None = None
        self._moved = Event()
        self._listeners = 0
        self._looking = CancelScope()

    @asynccontextmanager
    async def open(self, uris: frozenset[str]) -> AsyncGenerator["_SystemUpdates"]:
        """Updates from the version on that a look at the store finds now."""
        self._listeners += 1
        try:
            if self._listeners == 1:
                self._looking = CancelScope()
                await self._tasks.start(self._look_out, self._looking)  # subscribe, then read
            if SYSTEM_URI in uris:
                await self._look()
            yield _SystemUpdates(self, uris & {SYSTEM_URI}, self._version)
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._looking.cancel()

    async def _look_out(
        self, until: CancelScope, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED
    ) -> None:
        """Look at each announcement, and anyway now and then, until cancelled."""
        watch = self._services().watch
        with until, watch.hub.subscribe("system") as hints:
            task_status.started()
            while True:
                if await hints.wait(POLL_SECONDS):
                    with suppress(MCPError):  # the services' own watch logs it, and is polled below
                        await self._look()
                self._learn(watch.known_version)

    async def _look(self) -> None:
        watch = self._services().watch
        try:
            await watch.refresh()
        except HoldfastError as error:
            raise MCPError(types.INTERNAL_ERROR, error_text(error)) from None
        self._learn(watch.known_version)

    async def after(self, known: int | None) -> int:
        """The version, once it is another than `known`."""
        while self._version is None or self._version == known:
            await self._moved.wait()
        return self._version

    def _learn(self, version: int | None) -> None:
        if version is not None and version != self._version:
            self._version = version
            self._moved.set()
            self._moved = Event()


class _SystemUpdates:
    """What one subscriber is told."""

    def __init__(self, versions: SystemVersions, uris: frozenset[str], version: int | None) -> None:
        self._versions = versions
        self.uris = uris
        self.version = version
        self._told = version

    async def next(self) -> Update:
        """The next version, once there is one."""
        if not self.uris:
            await Event().wait()
        newest = await self._versions.after(self._told)
        if self._told is None or newest < self._told:  # lower: a database that was put back
            self._told = newest
        else:
            self._told = max(self._told + 1, newest - MAX_VERSIONS_TOLD + 1)
        return Update(SYSTEM_URI, self._told)
