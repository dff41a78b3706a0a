"""Commands for Slurm clusters."""

from __future__ import annotations

import os
from typing import Any

import click

from megatron_ipt.commands.common import json_option, overrides_argument, print_json, recipe_argument
from megatron_ipt.models.hardware import GPUS
from megatron_ipt.recipe import load_recipe
from megatron_ipt.stages.costs import Assumptions, Machine


@click.command()
@recipe_argument
@overrides_argument
@click.option(
    "--site", required=True, type=click.Path(dir_okay=False), help="Settings of the cluster (slurm/site.env)."
)
@click.option("--scripts", help="Folder of the batch scripts; by default slurm/ of the checkout.")
@click.option("--dry-run", is_flag=True, help="Print the sbatch commands and let Slurm check them, without submitting.")
@json_option
def submit(
    recipe: str, overrides: tuple[str, ...], site: str, scripts: str | None, dry_run: bool, as_json: bool
) -> None:
    """Submit the unfinished stages of RECIPE to Slurm, as a chain of jobs.

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
    """Show the progress of each stage of RECIPE, here or on a cluster.

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
@click.option("--gpus", type=int, required=True, help="Total number of GPUs.")
@click.option("--gpu", default=Machine.gpu, show_default=True, help=f"GPU type: {', '.join(GPUS)}.")
@click.option("--gpus-per-node", default=Machine.gpus_per_node, show_default=True, help="GPUs of one node.")
@click.option("--cpus", default=Machine.cores, show_default=True, help="CPU cores for the data stages.")
@click.option("--vocab-size", type=int, help="Vocabulary size, if the tokenizer is not here yet.")
@click.option("--documents", type=int, help="Number of documents, if the data is not here yet.")
@click.option(
    "--tokens-per-document",
    type=float,
    default=Assumptions.tokens_per_document,
    show_default=True,
    help="Mean length of a document, in tokens.",
)
@click.option(
    "--pairs-per-text",
    type=float,
    default=Assumptions.pairs_per_text,
    show_default=True,
    help="Mean number of pairs per text.",
)
@click.option(
    "--tokens-per-pair",
    type=float,
    default=Assumptions.tokens_per_pair,
    show_default=True,
    help="Mean length of a pair, in tokens.",
)
@json_option
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    gpus: int,
    gpu: str,
    gpus_per_node: int,
    cpus: int,
    as_json: bool,
    **assumed: Any,
) -> None:
    """Estimate time, memory, layout and storage of RECIPE before running it.

    Every stage states what its estimate is based on. Data that is here is measured, data of finished stages is counted;
    the options below are for data that does not exist yet.

    \b
    Example:
      megatron-ipt plan examples/instructlm_1.3b.yaml --gpus 64 --gpu h100
    """
    from megatron_ipt.cluster.plan.estimate import make_plan
    from megatron_ipt.cluster.plan.text import render_plan

    machine = Machine(gpus, gpu, gpus_per_node, cpus)
    made = make_plan(load_recipe(recipe, overrides), machine, Assumptions(**assumed))
    if as_json:
        print_json(made.as_dict())
    else:
        click.echo(render_plan(made))


@click.command()
@recipe_argument
@overrides_argument
@click.option("--gpus", type=int, help="GPUs that each node must have; by default what the job asked Slurm for.")
@json_option
def preflight(recipe: str, overrides: tuple[str, ...], gpus: int | None, as_json: bool) -> None:
    """Check this node, and under srun all nodes of the job, before a long run of RECIPE.

    GPUs, driver, free space, the dataset as each node sees it, and an all-reduce over all ranks.

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
