"""An answer's head and body go out together, and nothing waits that has to go."""

import asyncio
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from holdfast_server.commands.lean_http import _Joining

pytestmark = pytest.mark.anyio


class Recorded(asyncio.Transport):
    """What is sent, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.sent.append(b"closed")


def joining() -> tuple[_Joining, list[bytes]]:
    recorded = Recorded()
    return _Joining(recorded, asyncio.get_running_loop().call_soon), recorded.sent


async def test_head_and_body_are_one_write() -> None:
    transport, sent = joining()
    for answer in (b"1", b"2"):  # two that are under way on one connection
        transport.write(b"head" + answer)
        transport.write(b"body" + answer)
    assert sent == [b"head1body1", b"head2body2"]
    await checkpoint()
    assert sent == [b"head1body1", b"head2body2"]


async def test_what_is_streamed_goes_out_with_the_turn_of_the_loop() -> None:
    transport, sent = joining()
    transport.write(b"head")
    assert sent == []
    await checkpoint()
    assert sent == [b"head"]
    transport.write(b"one")
    transport.write(b"two")
    transport.write(b"three")
    await checkpoint()
    assert sent == [b"head", b"onetwo", b"three"]


async def test_what_is_kept_goes_out_before_the_connection_is_closed() -> None:
    transport, sent = joining()
    transport.write(b"last")
    transport.close()
    await checkpoint()
    assert sent == [b"last", b"closed"]
