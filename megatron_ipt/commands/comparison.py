"""Command ``compare``."""

from __future__ import annotations

from pathlib import Path

import click

from megatron_ipt.commands.common import json_option, overrides_argument, overwrite_option, print_json


@click.command()
@click.argument("comparison", type=click.Path())
@overrides_argument
@overwrite_option
@json_option
def compare(comparison: str, overrides: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Train recipe variants from the same seeds, and compare them on held-out text and questions.

    COMPARISON is a YAML file with the data, a common recipe, its variants (key `arms`) and the seeds. Finished runs
    are skipped. Writes results.md, results.png, results.svg and results.json to output_dir.

    \b
    Example:
      megatron-ipt compare examples/compare_vanilla_vs_instruct.yaml tasks='[xquad.en.json]' text='[wiki.txt]'
    """
    from megatron_ipt.comparison.compare import compare as run_comparison
    from megatron_ipt.comparison.config import load_comparison

    config = load_comparison(comparison, overrides)
    results = run_comparison(config, overwrite)
    folder = Path(config.output_dir)
    if as_json:
        print_json(results)
    else:
        click.echo((folder / "results.md").read_text())
        click.echo(f"figure  {folder / 'results.png'}")
