"""The run from one starting point: a model of transformers, its problem, and the solution, on one rank or several.

The documents of a step are dealt out over the ranks in order of length, so that each has as much to do. Ranks are
processes of this machine that meet through a file; scores depend on their number by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError, StageError
from megatron_ipt.parallel import map_shards
from megatron_ipt.progress import Progress, configure_logging
from megatron_ipt.seeding import derive
from megatron_ipt.selection.pds.central_differences import CentralDifferences
from megatron_ipt.selection.pds.data_parallel import DataParallel
from megatron_ipt.selection.pds.dynamics import Examples, Step, solve
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import TokenRow, row_losses, token_batches, token_losses_of
from megatron_ipt.selection.pds.problem import Calculus, Problem
from megatron_ipt.selection.pds.target import mean_loss
from megatron_ipt.selection.pds.vectors import Theta, norm, plus
from megatron_ipt.selection.proxy.config import ProxyConfig
from megatron_ipt.selection.proxy.work import Counted, passes

if TYPE_CHECKING:
    import torch

_STEP_CHECKED_AGAINST = 3.0
"""The step of central differences is compared with one so many times shorter."""
_OTHER_STEPS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
_TINY = 1e-300


@dataclass(frozen=True)
class Start:
    """What a rank is told.

    Attributes:
        config: section ``proxy``.
        model: folder of the starting point.
        label: of the progress bar.
        rows: of the documents that are scored.
        ids: of these documents.
        target: rows of the target.
        weights: of the documents, adding up to 1; None for equal ones.
        seed: for the order in which documents are trained on.
    """

    config: ProxyConfig
    model: str
    label: str
    rows: list[TokenRow] = field(repr=False)
    ids: list[str] = field(repr=False)
    target: list[TokenRow] = field(repr=False)
    weights: npt.NDArray[np.float64] | None = field(repr=False)
    seed: int


@dataclass(frozen=True)
class Solved:
    """The solution of one start.

    Attributes:
        scores: [documents].
        targets: J after each step, [steps].
        costates: norms of lambda_{t+1}, [steps].
        step_error: of central differences: by what share derivatives with a third of the step differ; None for exact
            ones.
    """

    scores: npt.NDArray[np.float64]
    targets: list[float]
    costates: list[float]
    step_error: float | None


def solve_start(start: Start) -> Solved:
    """Solves from one starting point on ``proxy.ranks`` processes.

    Raises:
        InputError: the model cannot be loaded, or does not fit its tokenizer or rows.
        StageError: the run diverged, the step of central differences is unfit, or a process died.
    """
    ranks = start.config.ranks
    with TemporaryDirectory(prefix="megatron-ipt-proxy-") as folder:
        found = dict(map_shards(solve_on_rank, range(ranks), (start, folder), ranks))
    return found[0]


def solve_on_rank(rank: int, start: Start, folder: str) -> Solved:
    """This rank's share of :func:`solve_start`; the same result on every rank.

    Args:
        folder: in which ranks meet.
    """
    import torch

    ranks = start.config.ranks
    device = _device(start.config, rank)
    try:
        return _solve(start, device, rank) if ranks == 1 else _solve_with_others(start, device, rank, folder)
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"proxy.micro_batch_documents: {start.config.micro_batch_documents} documents of up to "
            f"{start.config.seq_length} tokens do not fit into the memory of {device}; lower it"
        ) from error


def _solve_with_others(start: Start, device: str, rank: int, folder: str) -> Solved:
    import torch

    configure_logging(first_rank=rank == 0)
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{Path(folder) / 'ranks'}",
        rank=rank,
        world_size=start.config.ranks,
    )
    try:
        return _solve(start, device, rank)
    except RuntimeError as error:
        # Gloo has no error of its own.
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise StageError(
            f"proxy: rank {rank} of {start.config.ranks} lost another, which was killed or ran out of memory: "
            f"{str(error).splitlines()[0]}. Finished runs are kept; rerun the same command to resume"
        ) from error
    finally:
        torch.distributed.destroy_process_group()


def _device(config: ProxyConfig, rank: int) -> str:
    """Of this rank.

    Raises:
        StageError: there is no GPU for it.
    """
    import torch

    gpus = torch.cuda.device_count() if config.device != "cpu" else 0
    if gpus == 0 and config.device != "cuda":
        return "cpu"
    if rank >= gpus:
        raise StageError(f"proxy.ranks: {config.ranks} ranks need as many GPUs, and this machine has {gpus}; lower it")
    return f"cuda:{rank}"


def _solve(start: Start, device: str, rank: int) -> Solved:
    config, ranks = start.config, DataParallel()
    model = load_model(start.model, config, device)
    _check_ids(start, model.config.vocab_size)
    theta: Theta = {name: parameter.detach() for name, parameter in model.named_parameters()}
    losses_of_batch = row_losses(token_losses_of(model))

    def losses(theta: Theta, places: tuple[int, ...]) -> torch.Tensor:
        # Batches are made when they are needed: those of all steps at once would take more memory than the model.
        (batch,) = token_batches([start.rows[place] for place in places], len(places), device)
        return losses_of_batch(theta, batch)

    target = start.target[rank :: config.ranks]
    batches = token_batches(target, config.micro_batch_documents, device)
    problem = Problem(losses, mean_loss(losses_of_batch, batches))
    calculus: Calculus = ForwardMode(problem)
    step_error = None
    if config.derivatives == "central_differences":
        calculus = CentralDifferences(problem, config.relative_step)
        step_error = check_step(problem, theta, _micro_batches(start, rank, range(len(start.rows))), config, ranks)
    steps = [_micro_batches(start, rank, places) for places in _places_of_steps(start)]
    total = passes(config.steps, config.batch_documents, len(start.rows), config.score_every, len(start.target))
    with Progress(start.label, total // config.ranks if rank == 0 else None, "passes") as bar:
        found = solve(
            Counted(calculus, len(target), bar.advance if rank == 0 else lambda count: None),
            theta,
            steps,
            learning_rate=config.learning_rate,
            rows=len(start.rows),
            # Where every step trains on all documents, they are scored by what is computed anyway.
            scored=None if config.batch_documents is None else _micro_batches(start, rank, range(len(start.rows))),
            score_every=config.score_every,
            data_parallel=ranks,
        )
    return Solved(found.scores.numpy(), found.targets.tolist(), found.costates.tolist(), step_error)


def load_model(folder: str, config: ProxyConfig, device: str) -> Any:
    """The model of a starting point, in evaluation mode.

    Raises:
        InputError: it cannot be loaded, or its context is shorter than the rows.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Fused attention has no forward mode.
    attention = {"attn_implementation": "eager"} if config.derivatives == "forward_mode" else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.dtype), **attention)
    except (OSError, ValueError) as error:
        raise InputError(f"proxy.starts: {folder} cannot be loaded by transformers: {error}") from error
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and limit < config.seq_length:
        raise InputError(f"proxy.seq_length: {config.seq_length} is more than the {limit} positions of {folder}")
    return model.to(device).eval()


def check_step(problem: Problem, theta: Theta, examples: Step, config: ProxyConfig, ranks: DataParallel) -> float:
    """By what share the derivatives along the gradient of J change with a third of the step; the largest of all ranks.

    Raises:
        StageError: by more than ``proxy.relative_step_tolerance``, so that rounding or curvature spoils them; names a
            step that does better.
    """
    direction = ranks.sum(CentralDifferences(problem, config.relative_step).target(theta)[1])

    def error_of(relative_step: float) -> float:
        return max(ranks.gather(_error_of_step(problem, theta, examples, direction, relative_step)))

    error = error_of(config.relative_step)
    if not error <= config.relative_step_tolerance:
        better = min(_OTHER_STEPS, key=error_of)
        raise StageError(
            f"proxy.relative_step: with a third of {config.relative_step:g}, derivatives at a starting point differ by "
            f"{error:.1%}, more than proxy.relative_step_tolerance = {config.relative_step_tolerance:.1%}. Rounding "
            f"spoils a step that is too short, curvature one that is too long: with {better:g} they differ by "
            f"{error_of(better):.2%}. Exact derivatives need none: proxy.derivatives=forward_mode"
        )
    return error


def _error_of_step(problem: Problem, theta: Theta, examples: Step, direction: Theta, relative_step: float) -> float:
    """The same of this rank's first micro-batch."""
    import torch

    error = 0.0
    for part in islice(examples, 1):
        weights = torch.full((len(part.rows),), 1 / len(part.rows), dtype=torch.float64)
        (slopes, curvature), (finer, finer_curvature) = (
            CentralDifferences(problem, step).slopes_and_curvature(theta, part.batch, weights, direction)
            for step in (relative_step, relative_step / _STEP_CHECKED_AGAINST)
        )
        of_slopes = float((slopes - finer).norm() / finer.norm().clamp_min(_TINY))
        of_curvature = norm(plus(curvature, -1.0, finer_curvature)) / max(norm(finer_curvature), _TINY)
        # nan is not less than anything.
        error = max(of_slopes, of_curvature) if of_slopes + of_curvature < math.inf else math.inf
    return error


def _places_of_steps(start: Start) -> list[Sequence[int]]:
    """Which documents each step trains on: one pass over all in an order of hashes, then another."""
    config, documents = start.config, range(len(start.rows))
    batch = config.batch_documents
    if batch is None:
        return [documents] * config.steps
    order: list[int] = []
    epoch = 0
    while len(order) < batch * config.steps:
        order += sorted(documents, key=lambda place: derive(start.seed, "proxy", "order", epoch, start.ids[place]))
        epoch += 1
    return [order[first : first + batch] for first in range(0, batch * config.steps, batch)]


def _micro_batches(start: Start, rank: int, places: Sequence[int]) -> list[Examples]:
    """This rank's share of documents, the longest first."""
    import torch

    config = start.config
    own = sorted(places, key=lambda place: (-len(start.rows[place].ids), place))[rank :: config.ranks]
    portions = [
        tuple(own[first : first + config.micro_batch_documents])
        for first in range(0, len(own), config.micro_batch_documents)
    ]
    weights = start.weights
    return [
        Examples(
            portion,
            torch.tensor(portion, dtype=torch.int64),
            None if weights is None else torch.from_numpy(weights[list(portion)]),
        )
        for portion in portions
    ]


def _check_ids(start: Start, vocab_size: int) -> None:
    for name, rows in (("document", start.rows), ("target text", start.target)):
        for place, row in enumerate(rows):
            if int(row.ids.max()) >= vocab_size:
                called = start.ids[place] if name == "document" else str(place)
                raise InputError(
                    f"proxy.tokenizer: {name} {called} has the id {int(row.ids.max())}, and {start.model} a vocabulary "
                    f"of {vocab_size}; set it to the tokenizer of the starting points"
                )
