"""On a terminal: tables and colour, none of it where NO_COLOR asks for none, and nothing that obeys a stranger."""

import re

from cli.harness import Bench, Cli

COLOUR = re.compile(r"\x1b\[[\d;]*m")


def test_a_terminal_gets_a_table_in_colour(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue()
    done = cli.on_terminal("jobs")
    assert done.code == 0
    assert COLOUR.search(done.out)
    assert str(job.id) in done.out


def test_an_id_stays_in_one_piece_on_a_narrow_terminal(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue()
    assert str(job.id) in cli.on_terminal("jobs", columns=60).out


def test_no_color_is_honoured(cli: Cli, bench: Bench) -> None:
    bench.enqueue()
    bench.client.pause("drain", "no colour")
    for verb in ("jobs", "status", "history"):
        done = cli.on_terminal(verb, NO_COLOR="1")
        assert done.code == 0
        assert not COLOUR.search(done.out)


def test_control_characters_and_markup_reach_no_terminal(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue(note="\x9bx")
    bench.client.pause("drain", "[bold]not markup[/bold] \x1b]0;title\x07 \x9b31m")
    for arguments in (["status"], ["history", "--limit", "1"], ["job", str(job.id)]):
        shown = COLOUR.sub("", cli.on_terminal(*arguments, columns=200).out)
        assert not any(unsafe in shown for unsafe in "\x1b\x07\x9b")
    assert "[bold]not markup[/bold] \\x1b]0;title\\x07 \\x9b31m" in cli.on_terminal("status", columns=200).out


def test_json_on_a_terminal_means_the_same_and_moves_no_cursor(cli: Cli, bench: Bench) -> None:
    (job,) = bench.enqueue(note="\x9bx\u202e")
    done = cli.on_terminal("job", str(job.id), "--json", columns=4_000)
    assert "\x9b" not in done.out
    assert done.json["payload"] == {"note": "\x9bx\u202e"}


def test_a_wait_shows_a_drain_bar(cli: Cli, bench: Bench) -> None:
    bench.run_job()
    done = cli.on_terminal("pause", "--mode", "drain", "--reason", "bar", "--wait", "--timeout", "2s")
    assert done.code == 4
    assert "Draining" in done.out
    assert "1 running, 0 stale, 0 queued" in done.out
