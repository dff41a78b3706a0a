#!/usr/bin/env python3
"""Benchmarks all components on this machine; writes ``docs/benchmarks.md``, its JSON, and the table in the README.

    make bench                                   # everything, under 20 minutes on two cores
    python tools/bench.py --only tokens augment  # some components; results of the others are kept
    python tools/bench.py --quick --output /tmp/benchmarks.md

The settings below are small; run a tool directly for larger ones (``python tools/bench_tokens.py --help``). Use an idle
machine: CPU-seconds exclude the time of other processes, but not their effect on caches.
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
"""Measurements shown in the README, and their labels there."""
_BLOCK = re.compile(r"(<!-- figures -->\n).*?(?=<!-- end -->)", re.DOTALL)

SUITE: dict[str, list[tuple[list[str], list[str]]]] = {
    # Component: commands, each with the options that --quick adds.
    "synthesis": [
        (["bench_pairs.py", "parsing"], ["--seconds", "1"]),
        (["bench_synthesis.py", "chains", "throughput", "--texts", "10000"],
         ["--texts", "500", "--chain-texts", "64", "--slots", "16"]),
        (["bench_exactly_once.py", "--only", "megatron-ipt", "--kills", "20"], ["--kills", "3", "--documents", "60"]),
    ],
    "augment": [(["bench_pairs.py", "rendering"], ["--seconds", "1"])],
    "tokens": [
        (["bench_tokens.py", "--megabytes", "30"],
         ["--megabytes", "2", "--slow-lines", "200", "--documents", "200000"]),
    ],
    "training": [
        (["bench_training.py", "speed", "--precisions", "fp32", "--seconds", "45"],
         ["--seconds", "2", "--sizes", "10"]),
        # A step of transformers takes seconds here, and the ratio is far from 1.
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
    parser.add_argument("--only", nargs="+", choices=tuple(SUITE), help="components to measure; the others are kept")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to check that everything runs")
    parser.add_argument("--output", type=Path, default=PAGE, help="output page; the JSON gets the same name")
    arguments = parser.parse_args()
    data = arguments.output.with_suffix(".json")
    environment = {"machine": machine(), "versions": installed_versions()}
    rooms = earlier_rooms(data, environment) if arguments.only else {}
    failed = []
    for room in arguments.only or SUITE:
        start, figures = time.monotonic(), Figures()
        for command, quick in SUITE[room]:
            try:
                figures += run(command, quick if arguments.quick else [])
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                failed.append(f"{' '.join(command)}: {error}")
        rooms[room] = {
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - start),
            "commands": [" ".join(command + quick * arguments.quick) for command, quick in SUITE[room]],
            "figures": [asdict(figure) for figure in figures],
        }
        # After each component, so that an interruption loses no results.
        write(arguments.output, data, {**environment, "rooms": {room: rooms[room] for room in SUITE if room in rooms}})
    for line in failed:
        print(f"failed, results are missing: {line}")
    return 1 if failed else 0


def write(output: Path, data: Path, result: dict[str, Any]) -> None:
    """Writes page, JSON and README table."""
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    output.write_text(page(result))
    if output == PAGE:
        README.write_text(_BLOCK.sub(lambda found: found[1] + headlines(result), README.read_text()))
    missed = [figure.name for figure in figures_of(result) if figure.ratio is not None and figure.ratio < 1]
    print(f"\n{output}: {len(figures_of(result))} measurements, {len(missed)} miss their target")


def earlier_rooms(data: Path, environment: dict[str, Any]) -> dict[str, Any]:
    """Earlier results, if they come from the same machine and versions."""
    if not data.exists():
        return {}
    earlier = json.loads(data.read_text())
    if {name: earlier[name] for name in environment} != environment:
        print(f"{data}: from another machine or other versions; results are dropped")
        return {}
    return dict(earlier["rooms"])


def run(command: list[str], more: list[str]) -> Figures:
    """Runs a tool, shows its output, and returns its results."""
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
        "A ratio above 1 is better than the target; ratios below 1 are **bold**. Single-threaded; in CPU-seconds",
        "rather than seconds wherever other processes could distort the result.",
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
    """Description of this machine."""
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
