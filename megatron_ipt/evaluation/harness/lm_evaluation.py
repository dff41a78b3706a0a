"""Wraps lm-evaluation-harness: loads tasks with their data, loads a model, measures it on a task.

Tasks and data are loaded before the model, so a missing dataset costs no GPU time. Data comes from the hub or its
cache, or from files next to a custom task file.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ipt.errors import InputError, RecipeError, UserError, did_you_mean
from megatron_ipt.evaluation.harness.presets import Benchmark
from megatron_ipt.progress import Progress

if TYPE_CHECKING:
    from megatron_ipt.evaluation.harness.in_context import Answerer

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_CONNECTION = ("ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectTimeout", "ConnectError")


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its data: the library's objects for a task, a group of tasks, or the tasks of a tag."""

    benchmark: Benchmark
    items: list[Any]
    is_group: bool


def require_library() -> None:
    """Raises UserError if lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("benchmarks: lm-eval is not installed; install it with `pip install megatron-ipt[eval]`")


def version() -> str:
    return importlib.metadata.version("lm-eval")


def load_benchmarks(benchmarks: list[Benchmark], include_path: str) -> list[LoadedBenchmark]:
    """Loads tasks with their data.

    Args:
        include_path: folder with custom task files; empty for none.

    Raises:
        UserError: lm-eval is not installed.
        RecipeError: a task does not exist.
        InputError: the data of a task cannot be loaded.
    """
    require_library()
    with quiet():
        manager = _manager([benchmark.task for benchmark in benchmarks], include_path)
        for benchmark in benchmarks:
            if benchmark.task not in manager.all_tasks:
                raise RecipeError(_unknown(benchmark.task, manager.all_tasks, include_path))
        with Progress("benchmarks: loading", len(benchmarks), "tasks") as bar:
            loaded = []
            for benchmark in benchmarks:
                loaded.append(_load(benchmark, manager))
                bar.advance()
    return loaded


def _manager(names: list[str], include_path: str) -> Any:
    """Indexes task files. The thousands in the library are read only if ``include_path`` lacks one of ``names``."""
    from lm_eval.tasks import TaskManager

    if include_path:
        if not Path(include_path).is_dir():
            raise RecipeError(f"include_path: {include_path}: no such folder")
        manager = TaskManager(include_path=include_path, include_defaults=False)
        if not set(names) <= set(manager.all_tasks):
            manager = TaskManager(include_path=include_path)
        _find_data_files(manager, Path(include_path))
        return manager
    return TaskManager()


def _find_data_files(manager: Any, folder: Path) -> None:
    """Resolves ``data_files`` relative to the task file; the library looks only in the working directory."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for entry in manager.task_index.values():
        path = entry.yaml_path
        if path is None or not Path(path).resolve().is_relative_to(folder.resolve()):
            continue
        config = load_yaml(path, resolve_func=True)
        files = (config.get("dataset_kwargs") or {}).get("data_files")
        if files:
            config["dataset_kwargs"]["data_files"] = _resolve(Path(path).parent, files)
            entry.cfg, entry.yaml_path = config, None


def _resolve(folder: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {name: _resolve(folder, value) for name, value in files.items()}
    if isinstance(files, list):
        return [_resolve(folder, value) for value in files]
    return str(folder.resolve() / files) if (folder / files).exists() else files


def _unknown(name: str, known: list[str], include_path: str) -> str:
    where = f" nor in {include_path}" if include_path else ""
    hint = did_you_mean(name, known)
    return f"{name}: no such task in lm-evaluation-harness{where}.{hint} `lm-eval ls tasks` lists them"


def _load(benchmark: Benchmark, manager: Any) -> LoadedBenchmark:
    entry = manager.task_index[benchmark.task]
    # By name from the index, or by its configuration if its data_files were resolved.
    spec = entry.cfg if entry.yaml_path is None and entry.cfg is not None else benchmark.task
    try:
        found = manager.load([spec])
    except Exception as error:  # the data library raises errors of many kinds
        raise InputError(_no_data(benchmark.task, error)) from error
    if benchmark.task in found["groups"]:
        return LoadedBenchmark(benchmark, [found["groups"][benchmark.task]], True)
    return LoadedBenchmark(benchmark, list(found["tasks"].values()), False)


def _no_data(task: str, error: Exception) -> str:
    names: set[str] = set()
    cause: BaseException | None = error
    while cause is not None and len(names) < 10:
        names |= {kind.__name__ for kind in type(cause).__mro__}
        cause = cause.__cause__ or cause.__context__
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if names & set(_CONNECTION):
        return (
            f"benchmark {task}: cannot download its dataset: {first}. Run the same command once on a machine that can "
            "reach the hub, copy its cache here (HF_HOME, by default ~/.cache/huggingface) and set HF_HUB_OFFLINE=1; "
            "or write a task file for local data and set include_path to its folder (example: examples/tasks/)."
        )
    return f"benchmark {task}: cannot use its task file or data: {type(error).__name__}: {first}"


def open_model(folder: Path, dtype: str, batch_size: int, add_bos_token: bool) -> Any:
    """The model in ``folder`` as a model of the library, with this package's progress bars.

    Args:
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``auto``: fp32 on CPU; on GPU that of the weights, but fp16 if fp32.

    Raises:
        InputError: the folder cannot be loaded.
    """
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        label = "benchmark"
        bar: Progress | None = None
        answerer: Answerer | None = None

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            if self.answerer is not None:
                return self.answerer.loglikelihood(requests, self.label)
            with Progress(self.label, len(requests), "requests") as self.bar:
                results = super().loglikelihood(requests, disable_tqdm=True)
                # Options of a single token share a forward pass.
                self.bar.advance(len(requests) - self.bar.done)
            self.bar = None
            return results

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            if self.answerer is not None:
                return self.answerer.generate_until(requests, self.label)
            return super().generate_until(requests, disable_tqdm=not sys.stderr.isatty())

        def _model_call(self, inps: Any, *arguments: Any, **options: Any) -> Any:
            result = super()._model_call(inps, *arguments, **options)
            if self.bar is not None:
                self.bar.advance(len(inps))
            return result

    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with quiet():
            return Model(
                pretrained=str(folder),
                dtype=_dtype(folder, dtype, device),
                device=device,
                batch_size=batch_size,
                add_bos_token=add_bos_token,
                backend="causal",
            )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be loaded by transformers: {error}") from error


def _dtype(folder: Path, dtype: str, device: str) -> str:
    if dtype != "auto":
        return _DTYPES[dtype]
    if device == "cpu":
        return "float32"
    from transformers import AutoConfig

    stored = str(AutoConfig.from_pretrained(folder).dtype).removeprefix("torch.")
    return "bfloat16" if stored == "bfloat16" else "float16"


def measure(
    model: Any, loaded: LoadedBenchmark, limit: int | None, seed: int, label: str, answerer: Answerer | None = None
) -> dict[str, Any]:
    """Results of one benchmark, in the library's format (``results``, ``groups``, ``n-shot``, ``n-samples``).

    Args:
        answerer: answers after demonstrations that all questions share; None for demonstrations of the library.
    """
    import lm_eval
    import numpy as np
    import torch

    shots = loaded.benchmark.shots
    for task in tasks_in(loaded):
        # Like the library's own entry point: a task file with num_fewshot: 0 stays at zero shots.
        configured = task.get_config("num_fewshot")
        if configured is None or (shots is not None and configured != 0):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)
    model.label = label
    model.answerer = answerer
    with quiet(), answerer.prepared(tasks_in(loaded)) if answerer is not None else contextlib.nullcontext():
        found = {"tasks": {task.task_name: task for task in tasks_in(loaded)}, "groups": _groups(loaded)}
        return dict(lm_eval.evaluate(model, found, limit=limit, log_samples=False))


def tasks_in(loaded: LoadedBenchmark) -> list[Any]:
    return [task for item in loaded.items for task in (item.get_all_tasks() if loaded.is_group else [item])]


def _groups(loaded: LoadedBenchmark) -> dict[str, Any]:
    if not loaded.is_group:
        return {}
    return {group.name: group for item in loaded.items for group in (item, *item.get_all_groups())}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses log messages and warnings of the libraries, except with ``--verbose``."""
    names = ("lm_eval", "datasets", "transformers", "evaluate", "huggingface_hub")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    verbose = logging.getLogger("megatron_ipt").isEnabledFor(logging.DEBUG)
    if verbose:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            # No redrawn progress bars in log files. Our own log handler holds the original stream already.
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
