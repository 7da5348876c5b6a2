"""The answer to claims that meet a pause: made once for each version, since while paused all of them get the same."""

from holdfast_core.schemas import ClaimAnswer, System
from holdfast_dashboard.operations import Wire
from holdfast_dashboard.requests import json_of, wire_of

__all__ = ["PausedAnswer"]


class PausedAnswer:
    """Remembers the latest one."""

    def __init__(self) -> None:
        self._system: System | None = None
        self._wire: Wire = b"", b""

    def wire(self, claimed: ClaimAnswer) -> Wire:
        """This answer, which has no job. As long as `system` is the very object that it was before (it is never
        changed, only replaced), so is its JSON."""
        if claimed.system is not self._system:
            self._wire = wire_of(json_of(claimed))
            self._system = claimed.system
        return self._wire
