"""Recipe section ``evaluation.harness``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.config import key
from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation.harness.presets import PRESETS, Benchmark, benchmarks_of, parse_benchmark


@dataclass
class HarnessConfig:
    preset: str = key(
        "none",
        "Benchmarks. paper: PIQA, HellaSwag, WinoGrande 0-shot; Social IQA, ARC, OpenBookQA, BoolQ, MMLU 5-shot.",
        choices=tuple(PRESETS),
    )
    tasks: list[str] = key(
        [], "Additional tasks of lm-evaluation-harness, as TASK or TASK:SHOTS, e.g. [lambada_openai]."
    )
    include_path: str = key("", "Folder with custom task files (YAML); data_files are also looked up next to them.")
    limit: int | None = key(None, "Use only the first N questions of each task. null: all.", minimum=1)
    batch_size: int = key(16, "Requests per forward pass.", minimum=1, affects_output=False)
    add_bos_token: bool = key(True, "Prepend BOS to every request, as to every document in training.")
    dtype: str = key(
        "auto",
        "Data type of the weights. auto: fp32 on CPU; on GPU that of the exported model, but fp16 if that is fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    seed: int = key(1234, "Seed of the choice of few-shot examples.", minimum=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        for task in self.tasks:
            try:
                parse_benchmark(task)
            except RecipeError as error:
                yield "tasks", str(error)
        if self.include_path and not Path(self.include_path).is_dir():
            yield "include_path", f"{self.include_path}: no such folder"

    def benchmarks(self) -> list[Benchmark]:
        """Benchmarks to run, in order; empty if the section is not set."""
        return benchmarks_of(self.preset, self.tasks)

    @property
    def questions_reader(self) -> str:
        """What reads the questions of tasks, for the stages that keep them out of the training data."""
        return "megatron_ipt.evaluation.harness.test_questions:read"

    def files(self) -> list[Path]:
        """Custom task files and their data."""
        if not self.include_path or not self.benchmarks():
            return []
        return sorted(
            path for path in Path(self.include_path).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
