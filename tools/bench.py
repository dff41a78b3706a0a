#!/usr/bin/env python3
"""Measures every room on this machine and writes one dated table, ``docs/benchmarks.md``, and its JSON beside it; the
README's table of figures is made from the same.

    make bench                                   # all of it, under 20 minutes on two cores
    python tools/bench.py --only tokens augment  # some rooms; the others keep their rows
    python tools/bench.py --quick --output /tmp/benchmarks.md

The settings below are small ones; each tool takes larger ones by itself (``python tools/bench_tokens.py --help``). Run
it on a quiet machine: CPU-seconds do not count what others take, but their use of the caches still shows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmark_table import Figure, Figures, number, table  # noqa: E402

from megatron_ipt.manifest import installed_versions  # noqa: E402

PAGE = REPOSITORY / "docs" / "benchmarks.md"
README = REPOSITORY / "README.md"
RESULT_SECONDS = 900
HEADLINES = {
    "chains against rounds, prefix cache: 64 chains": "synthesis in chains against round by round, same server",
    "tokens, megatron-ipt, gigatoken, 1 process against Megatron-LM's loop": "tokenizing against Megatron-LM's tool",
    "training against transformers, 10M, sequence 256, fp32": "training 10M parameters in fp32 against transformers",
    "training against transformers, 50M, sequence 256, fp32": "the same, 50M",
    "training against transformers, 50M, sequence 256, bf16": "the same in bf16, on a processor without bf16",
    "start to first step, tiny model": "from the command to the first step of training",
    "index of 10,000,000 documents built": "sample index of 10 million documents, built",
    "index of 10,000,000 documents reopened": "the same, opened again",
    "import of instructlm_500m: time against cp": "Hugging Face to Megatron-Core, 500M: time against `cp`",
}
"""Figures that the README shows, and its words for them."""
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(?=<!-- end -->)", re.DOTALL)

SUITE: dict[str, list[tuple[list[str], list[str]]]] = {
    # Room: commands, each with what is added to make it quick.
    "synthesis": [
        (["bench_pairs.py", "parsing"], ["--seconds", "1"]),
        (["bench_synthesis.py", "chains", "throughput", "--texts", "10000"],
         ["--texts", "500", "--chain-texts", "64", "--slots", "16"]),
    ],
    "augment": [(["bench_pairs.py", "rendering"], ["--seconds", "1"])],
    "tokens": [
        (["bench_tokens.py", "--megabytes", "30"],
         ["--megabytes", "2", "--slow-lines", "200", "--documents", "200000"]),
    ],
    "training": [
        (["bench_training.py", "speed", "--precisions", "fp32", "--seconds", "45"],
         ["--seconds", "2", "--sizes", "10"]),
        # transformers takes seconds for a step of it, and the ratio is far from 1.
        (["bench_training.py", "speed", "--precisions", "bf16", "--seconds", "2", "--rounds", "2"], ["--sizes", "10"]),
        (["bench_training.py", "loop", "--seconds", "45"], ["--seconds", "2", "--sizes", "10"]),
        (["bench_training.py", "save"], ["--sizes", "10"]),
        (["bench_training.py", "start"], []),
        (["bench_training.py", "data"], []),
    ],
    "convert": [(["bench_convert.py"], ["--preset", "tiny", "--repeats", "1"])],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(SUITE), help="rooms to measure; the others keep their rows")
    parser.add_argument("--quick", action="store_true", help="settings that only show that everything runs")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page; its JSON gets the same name")
    arguments = parser.parse_args()
    data = arguments.output.with_suffix(".json")
    place = {"machine": machine(), "versions": installed_versions()}
    rooms = earlier_rooms(data, place) if arguments.only else {}
    failed = []
    for room in arguments.only or SUITE:
        began, figures = time.monotonic(), Figures()
        for command, quick in SUITE[room]:
            try:
                figures += run(command, quick if arguments.quick else [])
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                failed.append(f"{' '.join(command)}: {error}")
        rooms[room] = {
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - began),
            "commands": [" ".join(command + quick * arguments.quick) for command, quick in SUITE[room]],
            "figures": [asdict(figure) for figure in figures],
        }
        # After each room, so that what is measured stays when a later one is broken off.
        write(arguments.output, data, {**place, "rooms": {room: rooms[room] for room in SUITE if room in rooms}})
    for line in failed:
        print(f"failed, its figures are missing: {line}")
    return 1 if failed else 0


def write(output: Path, data: Path, result: dict[str, Any]) -> None:
    """Page and JSON."""
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    output.write_text(page(result))
    if output == PAGE:
        README.write_text(_BLOCK.sub(lambda found: found[1] + headlines(result), README.read_text()))
    missed = [figure.name for figure in figures_of(result) if figure.ratio is not None and figure.ratio < 1]
    print(f"\n{output}: {len(figures_of(result))} figures, {len(missed)} below their bar")


def earlier_rooms(data: Path, place: dict[str, Any]) -> dict[str, Any]:
    """What was measured before, if it was here and with the same versions: a table is of one machine."""
    if not data.exists():
        return {}
    earlier = json.loads(data.read_text())
    if {name: earlier[name] for name in place} != place:
        print(f"{data}: of another machine or other versions; its figures are left out")
        return {}
    return dict(earlier["rooms"])


def run(command: list[str], more: list[str]) -> Figures:
    """Runs a tool, shows what it prints, and returns its figures."""
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        script, *options = command
        line = [sys.executable, str(REPOSITORY / "tools" / script), *options, *more]
        print(f"\n$ {' '.join(['python', f'tools/{script}', *options, *more])}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*line, "--json", result.name], check=True, env=environment, timeout=RESULT_SECONDS)
        return Figures.read(Path(result.name))


def figures_of(result: dict[str, Any]) -> list[Figure]:
    return [Figure(**row) for room in result["rooms"].values() for row in room["figures"]]


def page(result: dict[str, Any]) -> str:
    """The page as Markdown."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "A ratio is above 1 where the figure is better than its bar; **bold** is below. One thread, and CPU-seconds",
        "rather than seconds wherever others could take part of the time.",
    ]
    for name, room in result["rooms"].items():
        commands = "; ".join(f"`python tools/{command}`" for command in room["commands"])
        lines += ["", f"## {name}", "", f"{room['date']}, {room['seconds']} s: {commands}", ""]
        lines.append(table([Figure(**row) for row in room["figures"]]).rstrip())
    return "\n".join(lines) + "\n"


def headlines(result: dict[str, Any]) -> str:
    """The README's table, as Markdown."""
    figures = {figure.name: figure for figure in figures_of(result)}
    rows = [
        f"| {words} | {number(figures[name].value)} {figures[name].unit} |"
        for name, words in HEADLINES.items()
        if name in figures
    ]
    return "\n".join(["| measured on CPU | |", "|---|--:|", *rows]) + "\n"


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor() or platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
    }


if __name__ == "__main__":
    sys.exit(main())
