"""`holdfast completion`: the script that lets a shell complete verbs, options and their values."""

from typing import Final

import click

from holdfast_worker.terminal.output import say

__all__ = ["completion"]

#: Where each shell looks by itself.
_PLACES: Final = {
    "bash": "~/.local/share/bash-completion/completions/holdfast",
    "zsh": "a file _holdfast in a folder of $fpath",
    "fish": "~/.config/fish/completions/holdfast.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_PLACES)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes verbs and options in a shell.

    For this shell alone: eval "$(holdfast completion bash)", or in fish: holdfast completion fish | source
    """
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    # The variable is the one that click itself looks for at the start of the program.
    click.echo(kind(root.command, {}, "holdfast", "_HOLDFAST_COMPLETE").source(), nl=False)
    say(f"Store this as {_PLACES[shell]}, and open a new {shell}.")
