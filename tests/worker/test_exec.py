"""A command for each job: what it gets, what becomes of what it writes, and what it comes to."""

import json
import os
import shlex
import signal
import stat
import sys
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import psutil
import pytest

from holdfast_core.errors import ConfigurationError
from holdfast_worker.runtime.errors import JobFailed
from holdfast_worker.runtime.execution import CommandFailed, CommandHandler, command_handler
from holdfast_worker.runtime.execution.files import IN_ENVIRONMENT_MOST
from holdfast_worker.runtime.lease import Lease
from support.exec_harness import FakeJob, alive, running, until

pytestmark = pytest.mark.anyio

handlers: list[CommandHandler] = []


@pytest.fixture(autouse=True)
def _closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Folders of jobs go below this test's own; no guard outlives its test, no zombie is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {child.pid for child in psutil.Process().children()}
    yield
    while handlers:
        handlers.pop().close()
    assert {child.pid for child in psutil.Process().children()} <= before


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def handler_of(command: str | list[str], kill_after: float = 10, cwd: Path | None = None) -> CommandHandler:
    handler = command_handler(command, kill_after_seconds=kill_after, cwd=cwd)
    handlers.append(handler)
    return handler


async def run(command: str | list[str], job: FakeJob | None = None, cwd: Path | None = None) -> str | None:
    with anyio.fail_after(60):
        return await handler_of(command, cwd=cwd)(job or FakeJob())


# What it gets


async def test_a_command_gets_its_payload_in_three_ways(tmp_path: Path) -> None:
    payload = {"month": 3, "name": "Zoë\n\0\ud800"}
    code = f"""
import os, shutil
here = {str(tmp_path)!r}
open(here + "/stdin", "w").write(open(0).read())
shutil.copy(os.environ["HOLDFAST_PAYLOAD_FILE"], here + "/file")
open(here + "/variable", "w").write(os.environ["HOLDFAST_PAYLOAD"])
"""
    assert await run(python(code), FakeJob(payload)) is None
    for way in ("stdin", "file", "variable"):
        assert json.loads((tmp_path / way).read_text()) == payload


async def test_what_is_too_large_for_the_environment_comes_by_the_other_two_ways() -> None:
    empty = len(json.dumps({"text": ""}))
    fits = FakeJob({"text": "x" * (IN_ENVIRONMENT_MOST - empty)})
    assert (
        await run('echo "${#HOLDFAST_PAYLOAD} $(wc -c)"', fits)
        == f"{IN_ENVIRONMENT_MOST} {IN_ENVIRONMENT_MOST}"
    )
    more = FakeJob({"text": "x" * (IN_ENVIRONMENT_MOST - empty + 1)})
    asked = 'echo "${HOLDFAST_PAYLOAD-none} $(wc -c) $(wc -c < "$HOLDFAST_PAYLOAD_FILE")"'
    assert await run(asked, more) == f"none {IN_ENVIRONMENT_MOST + 1} {IN_ENVIRONMENT_MOST + 1}"


async def test_its_files_are_its_users_alone_and_go_with_it(tmp_path: Path) -> None:
    code = """
import os, pathlib
file = pathlib.Path(os.environ["HOLDFAST_PAYLOAD_FILE"])
(file.parent / "more").mkdir()
(file.parent / "more" / "left").write_text("behind")
print(oct(file.stat().st_mode), oct(file.parent.stat().st_mode), file)
"""
    said = await run(python(code), FakeJob({"a": 1}))
    assert said is not None
    file_mode, folder_mode, file = said.split(" ")
    assert (stat.S_IMODE(int(file_mode, 8)), stat.S_IMODE(int(folder_mode, 8))) == (0o600, 0o700)
    assert Path(file).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_it_knows_its_job_and_not_the_workers_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TOKEN", "the worker's")
    monkeypatch.setenv("HOLDFAST_CONTROL_URL", "of another job, which this worker is a part of")
    monkeypatch.setenv("HOLDFAST_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MINE", "kept")
    code = 'import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k[:8] in ("HOLDFAST", "MINE")}))'
    said = json.loads(await run(python(code), FakeJob({})) or "")
    assert {name: value for name, value in said.items() if not name.endswith("_FILE")} == {
        "HOLDFAST_URL": "http://127.0.0.1:1",
        "HOLDFAST_JOB_ID": "the-job",
        "HOLDFAST_JOB_TOKEN": "job-token",
        "HOLDFAST_PAYLOAD": "{}",
        "MINE": "kept",
    }


async def test_a_text_goes_through_a_shell_and_words_do_not(tmp_path: Path) -> None:
    assert await run("echo $((20 + 1)) | tr 2 4") == "41"
    assert await run(["echo", "$((20 + 1)) | tr 2 4"]) == "$((20 + 1)) | tr 2 4"
    assert await run("pwd", cwd=tmp_path) == str(tmp_path)


@pytest.mark.parametrize("command", ["", "  ", []], ids=["empty", "blank", "no words"])
async def test_without_a_command_there_is_no_handler(command: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="no command"):
        command_handler(command)


# What it comes to


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("true", None),
        ("printf ' \\n\\n'", None),
        ("echo one; echo two; echo; echo '  '", "two"),
        ("printf 'one\\ntwo'", "two"),
        ("echo said; echo written > $HOLDFAST_RESULT_FILE", "written"),
        ("echo said; printf 'a\\nb\\n\\n' > $HOLDFAST_RESULT_FILE", "a\nb"),
        ("echo said; : > $HOLDFAST_RESULT_FILE", "said"),
        ("echo said; mkdir $HOLDFAST_RESULT_FILE", "said"),
        ("echo said; mkfifo $HOLDFAST_RESULT_FILE", "said"),
        ("echo said; ln -s /dev/zero $HOLDFAST_RESULT_FILE", "said"),
        ("printf '\\377\\376' > $HOLDFAST_RESULT_FILE", "\ufffd\ufffd"),
        ("head -c 100000 /dev/zero | tr '\\0' x > $HOLDFAST_RESULT_FILE", "x" * 8_000),
        ("echo first; head -c 100000 /dev/zero | tr '\\0' x; echo end", "x" * 8_000),
        ("echo said >&2", None),
    ],
)
async def test_its_result_is_what_it_has_written_last(command: str, result: str | None) -> None:
    assert await run(command) == result


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        ("exit 3", CommandFailed, "exit code 3"),
        ("echo why >&2; exit 3", CommandFailed, "exit code 3; its last words:\nwhy"),
        ("echo on stdout; exit 3", CommandFailed, "exit code 3; its last words:\non stdout"),
        ("echo why >&2; exit 65", JobFailed, "exit code 65; its last words:\nwhy"),
        ("kill -9 $$", CommandFailed, "killed by SIGKILL"),
        ("kill -40 $$", CommandFailed, "killed by signal 40"),
        ("sh -c 'kill -15 $$'; exit $?", CommandFailed, "exit code 143 (what a shell says of SIGTERM)"),
        ("no-such-program 2> /dev/null", CommandFailed, "exit code 127"),
        (["no-such-program"], CommandFailed, "The command 'no-such-program' cannot be started: No such file"),
        (["/"], CommandFailed, "The command '/' cannot be started: Permission denied."),
    ],
)
async def test_a_failure_says_how_it_ended_and_its_last_words(
    command: str | list[str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        await run(command)
    assert str(caught.value).startswith(said)
    assert type(caught.value) is kind


async def test_where_it_cannot_work_there_a_command_fails_and_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(
        CommandFailed, match=r"'true' cannot be started: No such file or directory: .*nowhere"
    ):
        await run("true", cwd=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


async def test_of_many_last_words_a_failure_has_the_last_lines() -> None:
    with pytest.raises(CommandFailed) as caught:
        await run("seq 1 10000 >&2; exit 1")
    how, _, words = str(caught.value).partition("\n")
    lines = words.split("\n")
    assert how == "exit code 1; its last words:"
    assert lines == [str(number) for number in range(10_001 - len(lines), 10_001)]
    assert 1_900 < len(words) <= 2_000


# What becomes of its output


async def test_its_output_goes_into_the_log_line_by_line_and_in_order() -> None:
    job = FakeJob()
    await run("for i in 1 2 3; do echo out $i; echo err $i >&2; done", job)
    assert sorted(job.said, key=str) == [
        ("info", "err 1\nerr 2\nerr 3", {"stream": "stderr"}),
        ("info", "out 1\nout 2\nout 3", None),
    ]


async def test_what_comes_together_goes_together_and_does_not_wait_for_the_end(tmp_path: Path) -> None:
    job = FakeJob()
    go = tmp_path / "go"
    command = f"echo one; echo two; printf half; until test -e {go}; do sleep 0.02; done; echo ' a line'"
    async with running(handler_of(command), job) as at_work:
        await until(lambda: job.said, "the first event")
        assert job.text() == "one\ntwo"
        go.touch()
        await at_work.done.wait()
    assert [text for _, text, _ in job.said] == ["one\ntwo", "half a line"]


async def test_half_a_line_that_does_not_go_on_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_worker.runtime.execution.output.HALF_LINE_SECONDS", 0.6)
    job = FakeJob()
    async with running(handler_of("printf 'Password: '; sleep 60"), job):
        await until(lambda: job.said, "half a line")
        assert job.said == [("info", "Password: ", None)]


async def test_what_is_no_text_is_told_nevertheless() -> None:
    job = FakeJob()
    await run(["printf", r"a\377b\303\244\033[2J\r\0.\n\nc\303"], job)
    assert job.said == [("info", "a\ufffdbä\x1b[2J\r\0.\n\nc\ufffd", None)]


async def test_a_character_in_two_pieces_stays_one() -> None:
    job = FakeJob()
    await run(["sh", "-c", r"printf '\303'; sleep 0.7; printf '\244\n'"], job)
    assert job.text() == "ä"


async def test_a_long_line_is_told_in_pieces() -> None:
    job = FakeJob()
    await run("echo before; head -c 20000 /dev/zero | tr '\\0' x; echo; echo after", job)
    assert "".join(text for _, text, _ in job.said).replace("\n", "") == "before" + "x" * 20_000 + "after"
    assert max(len(text) for _, text, _ in job.said) == 8_000


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "one line"])
async def test_a_flood_fills_neither_memory_nor_log_and_holds_nobody_up(lines: bool) -> None:
    job = FakeJob()
    size = 300_000_000
    flood = f"yes 0123456789 | head -c {size}" if lines else f"head -c {size} /dev/zero | tr '\\0' 0"
    laps: list[float] = []
    before = psutil.Process().memory_info().rss
    async with running(handler_of(f"echo first; {flood}; echo; echo last"), job) as at_work:
        while not at_work.done.is_set():
            began = time.monotonic()
            await anyio.sleep(0.01)
            laps.append(time.monotonic() - began - 0.01)
    assert at_work.error is None
    assert at_work.result == "last"
    assert psutil.Process().memory_info().rss - before < 50_000_000
    assert max(laps) < 1, "heartbeats would have waited for it"
    told = [text for level, text, _ in job.said if level == "info"]
    missing = [text for level, text, _ in job.said if level == "warn"]
    assert told[0].startswith("first")
    assert told[-1].endswith("last")
    assert 100 <= len(told) < 300, "as many as the job's log takes at once"
    assert "came faster than the log takes them" in missing[0]
    left_out = sum(int(text.split(" ")[0].replace(",", "")) for text in missing)
    kept = sum(map(len, told))
    # But for the line ends between two events, and around what is left out.
    assert 0 <= size + len("first\n") + len("\nlast\n") - left_out - kept <= len(job.said) + 2


async def test_a_trickle_is_told_whole() -> None:
    job = FakeJob()
    await run("for i in 1 2 3 4 5 6 7 8; do echo $i; echo $i >&2; sleep 0.2; done", job)
    assert job.text() == job.text("stderr") == "1\n2\n3\n4\n5\n6\n7\n8"
    assert 4 <= len(job.said) <= 12


# What it leaves behind


async def test_a_command_that_does_not_read_its_payload_is_none_the_worse() -> None:
    assert await run("exec <&-; sleep 0.1; echo done", FakeJob({"text": "x" * 1_000_000})) == "done"


async def test_a_command_that_closes_its_output_is_waited_for() -> None:
    assert await run("exec >&- 2>&-; sleep 0.5; echo done > $HOLDFAST_RESULT_FILE") == "done"


async def test_who_keeps_the_pipes_open_is_waited_for_a_moment_and_ended() -> None:
    job = FakeJob()
    began = time.monotonic()
    result = await run('sleep 60 & echo "pid $!"', job)
    assert 1.5 < time.monotonic() - began < 10
    assert result is not None
    assert not alive(int(result.removeprefix("pid ")))


async def test_what_is_written_in_that_moment_is_a_part_of_it() -> None:
    job = FakeJob()
    assert await run("(sleep 0.5; echo later) & echo now", job) == "later"
    assert job.text() == "now\nlater"


async def test_who_stays_silently_is_ended_at_once() -> None:
    began = time.monotonic()
    result = await run("sleep 60 > /dev/null 2>&1 & echo $!")
    assert time.monotonic() - began < 1.5
    assert result is not None
    assert not alive(int(result))


async def test_who_has_left_the_group_with_the_pipes_holds_nobody_up() -> None:
    escaped = "import os, sys, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
    began = time.monotonic()
    result = await run(f"{sys.executable} -c {shlex.quote(escaped)} & sleep 0.7")
    assert time.monotonic() - began < 10
    assert result is not None
    os.kill(int(result), signal.SIGKILL)


# How it is stopped


TREE = """
import os, signal, subprocess, sys, time
if sys.argv[1:]:
    signal.signal(signal.SIGTERM, {on_term})
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)
for _ in range(2):
    subprocess.Popen([sys.executable, __file__, "child"])
signal.signal(signal.SIGTERM, {on_term})
os.write(1, b"%d\\n" % os.getpid())
time.sleep(60)
"""


def tree(folder: Path, on_term: str) -> list[str]:
    """A command with two children, whose three ids it prints."""
    script = folder / "tree.py"
    script.write_text(TREE.replace("{on_term}", on_term))
    return [sys.executable, str(script)]


def pids(job: FakeJob) -> list[int] | None:
    found = [int(word) for word in job.text().split() if word.isdigit()]
    return found if len(found) == 3 else None


@pytest.mark.parametrize("through_a_shell", [True, False], ids=["shell", "words"])
async def test_a_cancelled_command_ends_with_all_its_group(tmp_path: Path, through_a_shell: bool) -> None:
    job = FakeJob()
    command = tree(tmp_path, "signal.SIG_DFL")
    handler = handler_of(f"{shlex.join(command)}; echo unreachable" if through_a_shell else command)
    async with running(handler, job) as at_work:
        group = await until(lambda: pids(job), "the processes")
        began = time.monotonic()
        at_work.scope.cancel()
        await at_work.done.wait()
        assert time.monotonic() - began < 5
        assert [pid for pid in group if alive(pid)] == []
    assert at_work.error is None
    assert at_work.scope.cancelled_caught, "a handler does not swallow its cancellation"
    assert [path.name for path in tmp_path.iterdir()] == ["tree.py"]


async def test_it_may_end_in_order_and_be_heard_while_it_does(tmp_path: Path) -> None:
    job = FakeJob()
    done = tmp_path / "done"
    command = (
        f"trap 'sleep 0.5; echo tidied; touch {done}; exit 0' TERM; echo begun; while :; do sleep 0.05; done"
    )
    async with running(handler_of(command), job) as at_work:
        await until(lambda: job.said, "its begin")
        at_work.scope.cancel()
        await at_work.done.wait()
        assert done.exists()
    assert job.text() == "begun\ntidied"
    assert at_work.scope.cancelled_caught
    assert at_work.result is None


async def test_a_command_that_will_not_end_is_killed_with_all_its_group(tmp_path: Path) -> None:
    job = FakeJob()
    async with running(handler_of(tree(tmp_path, "signal.SIG_IGN"), kill_after=0.7), job) as at_work:
        group = await until(lambda: pids(job), "the processes")
        began = time.monotonic()
        at_work.scope.cancel()
        await at_work.done.wait()
        assert 0.6 < time.monotonic() - began < 5
        assert [pid for pid in group if alive(pid)] == []


async def test_it_gets_no_more_time_than_its_lease_leaves(tmp_path: Path) -> None:
    # Eight seconds of it are left; the last five are not the command's, and the very last the guard's.
    job = FakeJob(lease=Lease(60, asked_at=time.monotonic() - 52))
    async with running(handler_of(tree(tmp_path, "signal.SIG_IGN"), kill_after=60), job) as at_work:
        group = await until(lambda: pids(job), "the processes")
        at_work.scope.cancel()
        await at_work.done.wait()
        assert time.monotonic() < job.lease.until - 2.5
        assert [pid for pid in group if alive(pid)] == []


async def test_a_stopped_process_hears_that_it_is_to_end() -> None:
    job = FakeJob()
    async with running(handler_of("trap 'echo heard; exit' TERM; echo begun; kill -STOP $$"), job) as at_work:
        await until(lambda: job.said, "its begin")
        at_work.scope.cancel()
        await at_work.done.wait()
    assert job.text() == "begun\nheard"


async def test_what_it_has_come_to_counts_though_it_is_to_stop() -> None:
    job = FakeJob()
    async with running(handler_of("sleep 60 & echo done"), job) as at_work:
        await until(lambda: job.said, "its last line")
        at_work.scope.cancel()  # while it is waited whether the `sleep` has anything to say
        await at_work.done.wait()
    assert at_work.result == "done"


async def test_without_pidfds_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "pidfd_open", missing, raising=False)
    assert await run("sleep 0.2; echo done") == "done"
    job = FakeJob()
    async with running(handler_of(tree(tmp_path, "signal.SIG_IGN"), kill_after=0.3), job) as at_work:
        group = await until(lambda: pids(job), "the processes")
        at_work.scope.cancel()
        await at_work.done.wait()
        assert [pid for pid in group if alive(pid)] == []


async def test_many_at_once_do_not_wait_for_each_other() -> None:
    handler = handler_of("sleep 1; echo $HOLDFAST_PAYLOAD")
    began = time.monotonic()
    results: list[str | None] = []

    async def one(number: int) -> None:
        results.append(await handler(FakeJob({"number": number})))

    async with anyio.create_task_group() as tasks:
        for number in range(60):  # more than there are threads for the small things
            tasks.start_soon(one, number)
    assert time.monotonic() - began < 20
    assert sorted(json.loads(result or "")["number"] for result in results) == list(range(60))


SUBREAPER = """
import ctypes, sys
import anyio, psutil
from holdfast_worker.runtime.execution import command_handler
from support.exec_harness import FakeJob

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
handler = command_handler("sleep 60 > /dev/null 2>&1 & sleep 0.2 & true")
anyio.run(handler, FakeJob())
handler.close()
left = psutil.Process().children()
print([(child.pid, child.status()) for child in left])
sys.exit(len(left))
"""


async def test_where_the_worker_is_the_first_process_it_reaps_the_orphans_of_its_commands() -> None:
    tests = Path(__file__).parent.parent
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    done = await anyio.run_process(
        [sys.executable, "-c", SUBREAPER], check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, (done.stdout, done.stderr)


async def test_what_has_ended_is_watched_no_longer() -> None:
    handler = handler_of("exit 3")
    job = FakeJob()
    with pytest.raises(CommandFailed):
        await handler(job)  # type: ignore[arg-type]
    assert handler.guard.watched == set()
    assert job.lease.listeners == []
