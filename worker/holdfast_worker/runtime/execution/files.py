"""The folder of a job that runs as a command: where its payload lies, and where it may leave a result.

Owner-only, since a payload may hold what is nobody else's to read. It goes with the job.
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from holdfast_core.schemas import MAX_TEXT

__all__ = ["IN_ENVIRONMENT_MOST", "JobFolder"]

#: Bytes of a payload that goes into the environment, too. Linux takes 128 KiB a variable, Windows 32,767 characters.
IN_ENVIRONMENT_MOST: Final = 65_536 if os.name != "nt" else 32_000
#: A character takes up to four bytes.
_RESULT_BYTES: Final = 4 * MAX_TEXT


class JobFolder:
    """One job's files. What touches the disk here may block for a moment."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        """Make the folder with the payload in it. Raises OSError where there is no room, say."""
        # ASCII: what else is in it is escaped, so that no encoding of the command's own can spoil it.
        self._content = json.dumps(payload).encode("ascii")
        self.path = Path(tempfile.mkdtemp(prefix="holdfast-job-"))  # 0700
        self.payload_path = self.path / "payload.json"
        self._result_path = self.path / "result"
        try:
            file = os.open(self.payload_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "wb") as payload_file:
                payload_file.write(self._content)
        except BaseException:
            self.remove()
            raise

    def environment(self) -> dict[str, str]:
        """By what the command finds its files."""
        found = {
            "HOLDFAST_PAYLOAD_FILE": str(self.payload_path),
            "HOLDFAST_RESULT_FILE": str(self._result_path),
        }
        if len(self._content) <= IN_ENVIRONMENT_MOST:
            found["HOLDFAST_PAYLOAD"] = self._content.decode("ascii")
        return found

    def result(self) -> str:
        """What the command has left as its result: the first 8,000 characters, without the line ends at its end.
        Empty where it has left none."""
        try:
            # A command may have put anything there: a pipe, for one, must not hold the worker up.
            file = os.open(self._result_path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return ""
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return ""
            content = os.read(file, _RESULT_BYTES)
        finally:
            os.close(file)
        return content.decode("utf-8", "replace")[:MAX_TEXT].rstrip("\r\n")

    def remove(self) -> None:
        """Remove it with all that the command has put there."""
        shutil.rmtree(self.path, ignore_errors=True)
