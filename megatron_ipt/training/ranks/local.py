"""How ranks are started on this machine: a single process, or several under torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(ranks: int, module: str, job: Path) -> list[str]:
    """The command line that runs ``python -m module job`` as each of ``ranks`` ranks."""
    worker = ["-m", module, str(job)]
    launch = ["-m", "megatron_ipt.training.ranks.launch", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *worker] if ranks == 1 else [sys.executable, *launch, *worker]


def environment(ranks: int) -> dict[str, str]:
    """The environment of that command: this process's own, with defaults for ranks that share a machine."""
    values = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    values.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    values.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Of torchrun, which would announce every signal that it forwards; the ranks report their errors themselves.
    values.setdefault("LOGLEVEL", "CRITICAL")
    if ranks == 1:
        # This process may itself be a rank of something else, as in a Slurm job.
        values |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        values.pop("MASTER_ADDR", None)
    if sys.platform == "linux":
        # All ranks are on this machine, whose own name may not resolve without a network.
        values.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return values
