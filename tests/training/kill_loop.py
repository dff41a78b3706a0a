"""Kills a training at random moments and starts it again, ten times: ``kill_loop.py DIRECTORY TOKENS OVERRIDE...``

Each attempt is forked from this process, which has imported everything: a kill then costs milliseconds, not seconds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.ranks import layout
from tests.training import driver

KILLS = 10


def attempt(directory: Path, tokens: Path, overrides: list[str]) -> int:
    child = os.fork()
    if child == 0:
        layout.start_process_group()
        driver.run(overrides, directory, tokens)
        os._exit(0)
    return child


def finished_steps(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b'"loss"') if path.exists() else 0


def main(directory: Path, tokens: Path, overrides: list[str]) -> None:
    import megatron_ipt.training.loop.trainer  # noqa: F401

    moments = random.Random(3)
    kills = 0
    while kills < KILLS:
        child = attempt(directory, tokens, overrides)
        begun = finished_steps(directory)
        goal = begun + moments.randint(1, 6)
        while finished_steps(directory) < goal:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                sys.exit(f"ended with status {status} after {kills} kills")
            # A restart cuts the lines after its checkpoint, so that the count may fall first.
            goal = min(goal, finished_steps(directory) + 6)
            time.sleep(0.002)
        time.sleep(moments.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    _, status = os.waitpid(attempt(directory, tokens, overrides), 0)
    print(kills, status)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
