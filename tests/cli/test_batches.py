"""enqueue --batch: in order, all or none of each thousand, and what is said where it breaks off."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cli.harness import Bench, Cli, StandIn


def lines(jobs: Iterable[object]) -> str:
    return "\n".join(json.dumps(job) for job in jobs)


def problem(status: int, code: str) -> bytes:
    return json.dumps({"type": "x", "title": "t", "status": status, "code": code, "detail": "No."}).encode()


def test_a_file_is_enqueued_in_its_order_and_may_be_sent_again(
    cli: Cli, bench: Bench, tmp_path: Path
) -> None:
    given = lines({"type": "many", "payload": {"n": n}, "idempotencyKey": f"b-{n}"} for n in range(2_300))
    path = tmp_path / "jobs.jsonl"
    path.write_text(given.replace("\n", "\n\n \n"))
    done = cli("enqueue", "--batch", str(path))
    assert done.code == 0, done.err
    ids = done.out.split()
    assert (len(ids), ids) == (2_300, sorted(ids))
    assert done.err.splitlines() == ["1000 enqueued.", "2000 enqueued.", "2300 enqueued."]
    again = cli("enqueue", "--batch", "-", "--json", stdin=given)
    told = [json.loads(line) for line in again.out.splitlines()]
    assert [job["id"] for job in told] == ids, "what is there already is not added twice"
    assert [job["payload"]["n"] for job in told] == list(range(2_300))
    while bench.client.jobs(status="queued", limit=1).items:
        bench.clear()


def test_a_line_that_is_refused_is_named_and_what_was_done_is_told(cli: Cli, bench: Bench) -> None:
    good = [{"type": "more"}] * 1_000
    broken = cli("enqueue", "--batch", "-", stdin=lines([*good, {"type": "more"}, {"type": "x y"}]))
    assert broken.code == 2
    assert len(broken.out.split()) == 1_000
    assert "The lines up to 1000 were enqueued, those behind it were not. Go on with line 1001." in broken.err
    assert "Error: line 1002.type: " in broken.err
    first = cli("enqueue", "--batch", "-", stdin="\n" + lines([{"type": "x y"}]))
    assert (first.code, first.out) == (2, "")
    assert "Nothing was enqueued." in first.err
    assert "Error: line 2.type: " in first.err
    while bench.client.jobs(status="queued", limit=1).items:
        bench.clear()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"{", "line 1 is not JSON"),
        (b"[1]", "line 1 is JSON, but not an object"),
        (b'{"type": "t", "payload": {"a": NaN}}', "line 1 is not JSON: NaN"),
        (b'{"type": "t", "payload": {"a": 1e999}}', "line 1 is not JSON: 1e999 is out of range"),
        (b'\n\n{"type": "t", "payload": {"a": ' + b"[" * 5_000, "line 3 is nested too deep"),
        (b"\xff", "line 1 is not JSON"),
        (b'{"type": "t", "payload": {"a": "' + b"x" * 8_400_000 + b'"}}', "line 1 is longer than"),
    ],
    ids=["cut", "array", "NaN", "infinite", "deep", "bytes", "long"],
)
def test_a_line_that_is_no_object_ends_with_2(cli: Cli, bench: Bench, wrong: bytes, said: str) -> None:
    done = cli("enqueue", "--batch", "-", stdin=wrong)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("payload", ['{"a": 1e999}', '{"a": ' + "[" * 990 + "]" * 990 + "}"])
def test_a_payload_that_cannot_be_sent_ends_with_2(cli: Cli, bench: Bench, payload: str) -> None:
    done = cli("enqueue", "--type", "t", "--payload", payload)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_jobs_that_make_no_batch_together_go_in_two(cli: Cli, bench: Bench) -> None:
    # With escapes, as they are sent, three of these are above eight MiB.
    big = json.dumps({"type": "t", "payload": {"a": "é" * 450_000}}, ensure_ascii=False)
    done = cli("enqueue", "--batch", "-", stdin="\n".join([big] * 4))
    assert done.code == 0, done.err
    assert len(done.out.split()) == 4
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (503, "store_unavailable", "whether the lines 1 to 2 were is not known"),
        (502, "", "whether the lines 1 to 2 were is not known"),
        (500, "internal_error", "whether the lines 1 to 2 were is not known"),
        (403, "not_allowed", "Nothing was enqueued."),
        (429, "too_many_requests", "Nothing was enqueued."),
    ],
)
def test_what_nobody_knows_is_not_claimed(
    cli_for: Callable[[str], Cli], stand_in: StandIn, status: int, code: str, said: str
) -> None:
    stand_in.answer(status, problem(status, code) if code else b"")
    done = cli_for(stand_in.url)("enqueue", "--batch", "-", stdin=lines([{"type": "t"}] * 2))
    assert done.code != 0
    assert said in done.err


def test_an_empty_file_is_no_failure(cli: Cli, bench: Bench) -> None:
    done = cli("enqueue", "--batch", "-", stdin="\n \n")
    assert (done.code, done.out) == (0, "")
    assert "nothing to enqueue" in done.err


def test_a_batch_goes_with_no_single_job_and_one_of_both_is_needed(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"type": "t"}')
    assert cli("enqueue", "--batch", str(path), "--type", "t").code == 2
    assert cli("enqueue", "--batch", str(tmp_path / "missing")).code == 2
    assert cli("enqueue").code == 2


def test_an_enqueue_under_a_key_is_made_once(cli: Cli, bench: Bench) -> None:
    first, again = (cli("enqueue", "--type", "t", "--idempotency-key", "once") for _ in range(2))
    assert first.out == again.out != ""
    other = cli("enqueue", "--type", "u", "--idempotency-key", "once")
    assert other.code == 2
    assert "different request" in other.err
