"""Command ``policy``."""

from __future__ import annotations

from pathlib import Path

import click

from megatron_ipt.commands.common import json_option, overrides_argument, overwrite_option, print_json


@click.command()
@click.argument("policy", type=click.Path(), metavar="POLICY")
@overrides_argument
@overwrite_option
@json_option
def policy(policy: str, overrides: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Search for the weights of examples, step by step, with which a small model learns fastest (Learning Law).

    POLICY is a YAML file with the model, the steps of its training and the search. An interrupted search goes on where
    it was; more epochs continue a finished one. Writes policy/, results.json, study.png and study.svg to output_dir.

    \b
    Example:
      megatron-ipt policy examples/learning_law/perceptron.yaml epochs=20
    """
    from megatron_ipt.research.learning_law.config import load_policy
    from megatron_ipt.research.learning_law.study import run_study, table

    config = load_policy(policy, overrides)
    results = run_study(config, overwrite)
    if as_json:
        print_json(results)
    else:
        click.echo(table(results))
        click.echo(f"figure  {Path(config.output_dir) / 'study.png'}")
