"""The answer to claims that meet a pause: made once for each version, since while paused all of them get the same."""

from holdfast_core.schemas import ClaimAnswer, System
from holdfast_dashboard.requests import Json, json_of

__all__ = ["PausedAnswer"]


class PausedAnswer:
    """Remembers the latest one."""

    def __init__(self) -> None:
        self._system: System | None = None
        self._body = b""
        self._lines = b""

    def body(self, claimed: ClaimAnswer) -> bytes:
        """The JSON of this answer, which has no job. As long as `system` is the very object that it was before (it is
        never changed, only replaced), so is the JSON."""
        if claimed.system is not self._system:
            self._body = json_of(claimed)
            self._lines = Json(self._body).lines()
            self._system = claimed.system
        return self._body

    def whole(self, claimed: ClaimAnswer) -> tuple[bytes, bytes]:
        """Its header fields as they go over the wire, and the JSON."""
        body = self.body(claimed)
        return self._lines, body
