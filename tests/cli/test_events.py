"""Streams of events: read however they are cut, and never without a bound."""

import json

import pytest

from holdfast_core.schemas import System
from holdfast_worker import events
from holdfast_worker.events import ServerEvent, server_events
from holdfast_worker.failures import UnexpectedAnswer


@pytest.mark.parametrize(
    "pieces",
    [
        [b"event: a\r\ndata: 1\r\nid: x\r\n\r\n: ping\r\n\r\ndata: 2\r\ndata: 3\r\n\r\n"],
        [b"event: a\r", b"\ndata: 1\r\nid: x\r\n\r", b"\n: ping\n\nda", b"ta: 2\rdata:3\r", b"\r\n\r"],
        [
            bytes([byte])
            for byte in b"event: a\ndata: 1\nid: x\n\n:\n\ndata: 2\ndata: 3\nunknown\nretry: 5\n\ndata: cut"
        ],
    ],
    ids=["whole", "cut at CR", "byte by byte"],
)
def test_a_stream_is_read_however_it_is_cut(pieces: list[bytes]) -> None:
    got = [(event.event, event.data, event.id) for event in server_events(pieces)]
    assert got == [("a", "1", "x"), ("message", "2\n3", "x")]


def test_a_character_that_is_cut_in_two_is_one() -> None:
    text = "data: \ufeffé→😀\n\n".encode()
    for cut in range(len(text)):
        assert [event.data for event in server_events([text[:cut], text[cut:]])] == ["\ufeffé→😀"]


def test_an_id_lasts_until_the_next_and_one_with_nul_is_none() -> None:
    stream = b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid\ndata: c\n\n"
    assert [event.id for event in server_events([stream])] == ["1", "1", ""]


@pytest.mark.parametrize(
    "chunk", [b"data: " + b"x" * 60, b"data: " + b"x" * 20 + b"\n", b"x" * 60], ids=["line", "lines", "junk"]
)
def test_an_event_that_does_not_end_is_not_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch, chunk: bytes
) -> None:
    monkeypatch.setattr(events, "MAX_EVENT", 100)
    with pytest.raises(UnexpectedAnswer, match="longer than"):
        list(server_events([chunk] * 10))
    assert len(list(server_events([b"data: " + b"x" * 90 + b"\n\n"] * 10))) == 10


def test_an_events_data_is_read_into_its_model_or_said_to_be_something_else() -> None:
    given = {"workersPaused": False, "version": 7, "updatedAt": "2026-02-20T02:00:00Z", "newer": 1}
    assert ServerEvent("system", json.dumps(given), None).read(System).version == 7
    for data in ("", "{}", "nonsense", '{"version": 0}'):
        with pytest.raises(UnexpectedAnswer, match="holds no System"):
            ServerEvent("system", data, None).read(System)
