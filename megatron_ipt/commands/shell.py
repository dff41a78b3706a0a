"""Shell completion of commands, options, recipe files and keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_MEGATRON_IPT_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for SHELL: commands, options, recipes and keys.

    \b
    Example:
      megatron-ipt completion bash >> ~/.bashrc
      megatron-ipt completion zsh >> ~/.zshrc
      megatron-ipt completion fish > ~/.config/fish/completions/megatron-ipt.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None and context.parent is not None
    click.echo(kind(context.parent.command, {}, "megatron-ipt", _VARIABLE).source())
