"""Commands for Slurm clusters."""

from __future__ import annotations

import os

import click

from megatron_ipt.commands.common import json_option, overrides_argument, print_json, recipe_argument
from megatron_ipt.recipe import load_recipe


@click.command()
@recipe_argument
@overrides_argument
@click.option("--site", required=True, type=click.Path(dir_okay=False), help="The file a site edits (slurm/site.env).")
@click.option("--scripts", help="Folder of the sbatch scripts; the checkout's slurm/ by default.")
@click.option("--dry-run", is_flag=True, help="Print the exact sbatch lines and have Slurm check them; submit nothing.")
@json_option
def submit(
    recipe: str, overrides: tuple[str, ...], site: str, scripts: str | None, dry_run: bool, as_json: bool
) -> None:
    """Submit what is left of RECIPE to Slurm, as a chain of jobs.

    \b
    Example:
      megatron-ipt submit examples/instructlm_1.3b.yaml --site slurm/site.env --dry-run
    """
    from megatron_ipt.cluster.slurm.submit import render_submission, submit as submit_recipe

    submission = submit_recipe(recipe, overrides, site, scripts, dry_run)
    if as_json:
        print_json(submission.as_dict())
    else:
        click.echo(render_submission(submission, dry_run))


@click.command()
@recipe_argument
@overrides_argument
@json_option
def status(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show how far each stage of RECIPE is, here or on a cluster.

    \b
    Example:
      megatron-ipt status examples/quickstart.yaml
    """
    from megatron_ipt.cluster.watch.status import cluster_status, render_status

    rows = cluster_status(load_recipe(recipe, overrides))
    if as_json:
        print_json(rows)
    else:
        click.echo(render_status(rows))


@click.command()
@recipe_argument
@overrides_argument
@click.option("--gpus", type=int, required=True, help="GPUs altogether.")
@click.option("--gpu", default="h100", show_default=True, help="Their kind.")
@click.option("--gpus-per-node", default=8, show_default=True)
@click.option("--cpus", default=64, show_default=True, help="Cores for the data stages.")
@click.option("--vocab-size", type=int, help="Where the recipe's tokenizer cannot tell it yet.")
@click.option("--documents", type=int, help="Documents of the corpus, where it is not read yet.")
@click.option("--tokens-per-document", type=float, help="Their mean length.")
@click.option("--pairs-per-text", type=float, help="Pairs that a text gets.")
@click.option("--tokens-per-pair", type=float, help="Tokens of a pair.")
@json_option
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    gpus: int,
    gpu: str,
    gpus_per_node: int,
    cpus: int,
    vocab_size: int | None,
    as_json: bool,
    **assumed: float | None,
) -> None:
    """Estimate memory, layout, time and storage of RECIPE on GPUs, before anything runs.

    \b
    Example:
      megatron-ipt plan examples/instructlm_1.3b.yaml --gpus 64 --gpu h100
    """
    from megatron_ipt.cluster.plan.estimate import make_plan
    from megatron_ipt.cluster.plan.text import render_plan
    from megatron_ipt.cluster.plan.volume import Assumptions

    assumptions = Assumptions(**{name: value for name, value in assumed.items() if value is not None})
    made = make_plan(load_recipe(recipe, overrides), gpus, gpu, gpus_per_node, cpus, vocab_size, assumptions)
    if as_json:
        print_json(made.as_dict())
    else:
        click.echo(render_plan(made))


@click.command()
@recipe_argument
@overrides_argument
@click.option("--gpus", type=int, help="GPUs this node must have; by default what the job asked Slurm for.")
@json_option
def preflight(recipe: str, overrides: tuple[str, ...], gpus: int | None, as_json: bool) -> None:
    """Check this node, and under srun all nodes together, before hours are spent on RECIPE.

    \b
    Example:
      srun megatron-ipt preflight examples/instructlm_1.3b.yaml --gpus 8
    """
    from megatron_ipt.cluster.watch.preflight import Place, expected_gpus, preflight as check

    expected = gpus if gpus is not None else expected_gpus(os.environ)
    place = Place.of(os.environ)
    facts = check(load_recipe(recipe, overrides), expected, place)
    if as_json:
        print_json({"node": place.node, "gpus": expected, "status": "ok", "facts": facts})
    else:
        click.echo(facts)
