"""Checks of all nodes, in seconds, before hours of training: ``python -m megatron_ipt.cluster.watch.preflight RECIPE``.

Under srun, one process per node: GPUs (number, type, memory in use, uncorrectable errors), free disk space, the recipe
and its dataset as this node sees them, the same driver on all nodes, and an all-reduce over as many ranks as the
training will have. A node that fails is named together with the problem; the others stop, too.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from megatron_ipt.errors import StageError, UserError
from megatron_ipt.pipeline import context_of
from megatron_ipt.recipe import Recipe, load_recipe, section_of, stages_of
from megatron_ipt.stages import Needs, load

_QUERY = "name,memory.total,memory.used,driver_version,ecc.errors.uncorrected.volatile.total"
_USED_SHARE = 0.05
"""Fraction of a GPU's memory that may be in use before the job starts: more means a leftover process."""
_SECONDS_FOR_NODES = 60.0
_MESSAGE_MB = 64
_ROUNDS = 5


@dataclass(frozen=True)
class NodeGpu:
    """One GPU as the driver reports it; memory in MiB."""

    name: str
    memory: float
    used: float
    driver: str
    errors: int


@dataclass(frozen=True)
class Place:
    """Place of this process in the job."""

    node: str
    index: int
    nodes: int
    ranks_per_node: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        listed = expand_nodes(environment.get("SLURM_JOB_NODELIST", ""))
        return cls(
            environment.get("SLURMD_NODENAME", socket.gethostname()),
            int(environment.get("SLURM_NODEID", 0)),
            int(environment.get("SLURM_NNODES", 1)),
            int(environment.get("RANKS_PER_NODE", 1)),
            tuple(listed),
        )


def expand_nodes(text: str) -> list[str]:
    """``gpu[01-03,7],login`` -> ``gpu01 gpu02 gpu03 gpu7 login``."""
    names: list[str] = []
    for prefix, inside, suffix in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", text):
        for part in inside.split(",") if inside else [""]:
            first, _, last = part.partition("-")
            numbers = [first] if not last else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
            names += [f"{prefix}{number}{suffix}" for number in numbers]
    return names


def parse_gpus(text: str) -> list[NodeGpu]:
    """Rows of ``nvidia-smi --query-gpu`` without units; unknown values count as 0."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5:
            errors = int(fields[4]) if fields[4].isdigit() else 0
            gpus.append(NodeGpu(fields[0], float(fields[1]), float(fields[2]), fields[3], errors))
    return gpus


def problems_of_gpus(gpus: list[NodeGpu], expected: int) -> list[str]:
    """What is wrong with a node's GPUs."""
    problems = []
    if len(gpus) < expected:
        problems.append(f"{len(gpus)} GPUs, {expected} expected")
    if len({gpu.name for gpu in gpus}) > 1:
        problems.append("different GPUs: " + ", ".join(sorted({gpu.name for gpu in gpus})))
    for index, gpu in enumerate(gpus):
        if gpu.used > _USED_SHARE * gpu.memory:
            problems.append(f"GPU {index}: {gpu.used:.0f} of {gpu.memory:.0f} MiB in use already")
        if gpu.errors:
            problems.append(f"GPU {index}: {gpu.errors} uncorrectable memory errors")
    return problems


def query_gpus() -> tuple[list[NodeGpu], str]:
    """The GPUs of this node, and why there are none, if that is known."""
    if shutil.which("nvidia-smi") is None:
        return [], "nvidia-smi is missing"
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer"
    return parse_gpus(result.stdout), "" if result.returncode == 0 else result.stderr.strip() or result.stdout.strip()


def problems_of_storage(recipe: Recipe) -> list[str]:
    """Free space in ``output_dir`` and the files that stages on whole nodes read, as this node sees them."""
    problems = []
    output = Path(recipe.output_dir)
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    given = float(os.environ.get("MEGATRON_IPT_FREE_GB", 0))
    for stage in stages_of(recipe):
        if not stage.resources.needs:
            continue
        needs: Needs = load(stage.resources.needs)(section_of(recipe, stage), context_of(stage, recipe))
        problems += [f"{path} is not visible from this node" for path in needs.files if not path.exists()]
        needed = given or needs.free_gb
        if free < needed:
            problems.append(f"{free:,.0f} GB free under {output}, {needed:,.0f} GB needed for {needs.purpose}")
    return problems


def check_node(recipe: Recipe, expected_gpus: int) -> tuple[list[str], dict[str, Any]]:
    """Everything about this node alone.

    Returns:
        Problems, and facts: ``{gpus, driver, free_gb}``.
    """
    gpus, reason = query_gpus() if expected_gpus else ([], "")
    problems = problems_of_gpus(gpus, expected_gpus)
    if problems and reason:
        problems[0] += f" ({reason})"
    if expected_gpus and not problems:
        import torch

        if torch.cuda.device_count() < expected_gpus:
            problems.append(
                f"torch {torch.__version__} sees {torch.cuda.device_count()} of {len(gpus)} GPUs: built without CUDA, "
                f"or for a newer driver than {gpus[0].driver}"
            )
    problems += problems_of_storage(recipe)
    kind = f"{len(gpus)} x {gpus[0].name}" if gpus else "no GPU"
    driver = gpus[0].driver if gpus else ""
    free = shutil.disk_usage(Path(recipe.output_dir).absolute().anchor).free / 1e9
    return problems, {"gpus": kind, "driver": driver, "free_gb": free}


def all_nodes(place: Place, problems: list[str], facts: dict[str, Any]) -> list[str]:
    """Exchanges what every node found; returns all problems, by node, on every node.

    Raises:
        StageError: some nodes did not answer within a minute; names them.
    """
    if place.nodes == 1:
        return [f"{place.node}: {problem}" for problem in problems]
    import orjson
    from torch.distributed import TCPStore

    timeout = timedelta(seconds=_SECONDS_FOR_NODES)
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), place.nodes, place.index == 0, timeout,
        wait_for_workers=False,
    )  # fmt: skip
    store.set(f"node {place.index}", orjson.dumps({"node": place.node, "problems": problems, **facts}))
    rows, missing = [], []
    end = time.monotonic() + _SECONDS_FOR_NODES
    for index in range(place.nodes):
        while not store.check([f"node {index}"]) and time.monotonic() < end:
            time.sleep(0.1)
        if store.check([f"node {index}"]):
            rows.append(orjson.loads(store.get(f"node {index}")))
        else:
            missing.append(place.names[index] if index < len(place.names) else f"node {index}")
    store.add("left", 1)
    while place.index == 0 and store.add("left", 0) < len(rows) and time.monotonic() < end:
        time.sleep(0.05)
    if missing:
        raise StageError(f"preflight: {', '.join(missing)} did not answer within {_SECONDS_FOR_NODES:.0f} s")
    found = [f"{row['node']}: {problem}" for row in rows for problem in row["problems"]]
    for name in ("gpus", "driver"):
        values = {row[name] for row in rows}
        if len(values) > 1:
            listed = ", ".join(f"{row['node']} {row[name] or 'none'}" for row in rows)
            found.append(f"{name} differ between nodes: {listed}")
    return found


def all_reduce(place: Place) -> float:
    """An all-reduce over every rank; returns GB/s of the slowest, as NCCL counts bus bandwidth.

    Raises:
        StageError: it failed or did not finish.
    """
    import torch.multiprocessing as multiprocessing

    results = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        multiprocessing.spawn(_all_reduce_rank, (place, results), nprocs=place.ranks_per_node)
    except Exception as error:
        last = str(error).strip().splitlines()[-1]
        raise StageError(f"preflight: {place.node}: the all-reduce over all ranks failed: {last}") from error
    return min(results.get() for _ in range(place.ranks_per_node))


def _all_reduce_rank(local_rank: int, place: Place, results: Any) -> None:
    import torch

    world, rank = place.nodes * place.ranks_per_node, place.index * place.ranks_per_node + local_rank
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", 29500)) + 1
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=_SECONDS_FOR_NODES),
    )
    numbers = (_MESSAGE_MB if on_gpu else 1) * 250_000
    values = torch.ones(numbers, device="cuda" if on_gpu else "cpu")
    torch.distributed.all_reduce(values)
    if on_gpu:
        torch.cuda.synchronize()
    start = time.monotonic()
    for _ in range(_ROUNDS):
        torch.distributed.all_reduce(values.fill_(1.0))
    total = values[0].item()
    seconds = (time.monotonic() - start) / _ROUNDS
    if total != world:
        raise RuntimeError(f"rank {rank} got {total} for a sum of {world} ones")
    results.put(4 * numbers * 2 * (world - 1) / world / seconds / 1e9)
    torch.distributed.destroy_process_group()


def preflight(recipe: Recipe, expected_gpus: int, place: Place) -> str:
    """Checks this node, and all nodes of the job together; returns one line of facts.

    Raises:
        StageError: lists all problems, by node.
    """
    problems, facts = check_node(recipe, expected_gpus)
    found = all_nodes(place, problems, facts)
    if found:
        raise StageError("preflight:\n  " + "\n  ".join(found))
    ranks = place.nodes * place.ranks_per_node
    speed = f", all-reduce over {ranks} ranks at {all_reduce(place):.2f} GB/s" if ranks > 1 else ""
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    return f"{place.node}: {facts['gpus']}{driver}, {facts['free_gb']:,.0f} GB free{speed}: ok"


def expected_gpus(environment: Mapping[str, str]) -> int:
    """GPUs per node that the job expects: MEGATRON_IPT_GPUS, else what it asked Slurm for."""
    text = environment.get("MEGATRON_IPT_GPUS", environment.get("SLURM_GPUS_PER_NODE", "0"))
    return int(text.rpartition(":")[2])


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    place = Place.of(os.environ)
    try:
        print(preflight(load_recipe(arguments[0], arguments[1:]), expected_gpus(os.environ), place), flush=True)
    except UserError as error:
        # Errors that all nodes know are printed once.
        if place.index == 0 or not str(error).startswith("preflight:\n"):
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
