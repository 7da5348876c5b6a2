"""A pause that its maker ends: through lost answers, and never in the place of somebody else."""

from typing import Any

import pytest

from cli.harness import Bench
from holdfast_core.errors import IdempotencyStale, NotPaused, VersionConflict
from holdfast_core.schemas import ControlSnapshot
from holdfast_worker.client import Client
from holdfast_worker.failures import ServerUnreachable
from holdfast_worker.terminal import own_pause, surely
from holdfast_worker.terminal.own_pause import OwnPause


class Losing(Client):
    """The server does all that it is asked for, but so many answers are lost."""

    losing = 0

    def pause(self, *arguments: Any, **more: Any) -> ControlSnapshot:
        return self._lose(super().pause(*arguments, **more))

    def resume(self, *arguments: Any, **more: Any) -> ControlSnapshot:
        return self._lose(super().resume(*arguments, **more))

    def _lose(self, answer: ControlSnapshot) -> ControlSnapshot:
        if not self.losing:
            return answer
        self.losing -= 1
        raise ServerUnreachable("It has not answered.", sent=True)


@pytest.fixture
def losing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Losing:
    monkeypatch.setattr(surely, "LEAST_WAIT", 0)
    monkeypatch.setattr(own_pause, "RETRY_SECONDS", 0.0)
    return Losing(bench.client.url, token="")


def version(bench: Bench) -> int:
    return bench.client.status().system.version


def test_a_pause_whose_answer_is_lost_is_undone(bench: Bench, losing: Losing) -> None:
    before = version(bench)
    own = OwnPause(losing, "drain", "mine", before)
    losing.losing = surely.TRIES
    with losing:
        with pytest.raises(ServerUnreachable):
            own.make()
        assert bench.client.status().system.workers_paused
        own.undo()
    system = bench.client.status().system
    assert (system.workers_paused, system.version) == (False, before + 2)


def test_a_resume_whose_answer_is_lost_is_no_resume_of_somebody_else(bench: Bench, losing: Losing) -> None:
    before = version(bench)
    own = OwnPause(losing, "drain", "mine", before)
    with losing:
        own.make()
        losing.losing = 2
        ended = own.end()
    assert (ended.replayed, ended.system.version) == (True, before + 2)


def test_a_lost_resume_behind_which_somebody_paused_leaves_that_pause(bench: Bench, losing: Losing) -> None:
    own = OwnPause(losing, "drain", "mine", version(bench))
    with losing:
        own.make()
        losing.losing = 1
        theirs: list[ControlSnapshot] = []

        def meanwhile(*_: object) -> None:
            if not theirs:
                theirs.append(bench.client.pause("drain", "theirs"))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(own_pause.time, "sleep", meanwhile)
            with pytest.raises(IdempotencyStale):
                own.end()
    assert bench.client.status().system == theirs[0].system


def test_a_pause_that_somebody_made_first_is_theirs_even_with_the_same_words(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    own = OwnPause(bench.client, "drain", "the same words", version(bench))
    theirs = bench.client.pause("drain", "the same words").system
    with pytest.raises(VersionConflict):
        own.make()
    refused = bench.client.history(limit=1).items
    own.undo()
    assert bench.client.status().system == theirs
    assert bench.client.history(limit=1).items == refused, "what was refused is not asked for again"
    assert capsys.readouterr().err == ""


def test_a_pause_that_somebody_changed_is_not_undone(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    own = OwnPause(bench.client, "drain", "mine", version(bench))
    own.make()
    theirs = bench.client.pause("quiesce", "theirs now").system
    own.undo()
    assert bench.client.status().system == theirs
    assert "left as it is" in capsys.readouterr().err


def test_a_pause_that_somebody_ended_is_not_ended_again(bench: Bench) -> None:
    own = OwnPause(bench.client, "drain", "mine", version(bench))
    own.make()
    theirs = bench.client.resume("theirs").system
    with pytest.raises((NotPaused, VersionConflict)):
        own.end()
    assert bench.client.status().system == theirs
