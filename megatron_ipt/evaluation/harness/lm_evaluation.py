"""lm-evaluation-harness behind three calls: find tasks, load them with their data, measure a model on one.

Tasks and data are loaded before the model answers anything, so that a missing data set costs no GPU time. Data come
from the hub or its cache, or from files beside a task file of your own.
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
from typing import Any

from megatron_ipt.errors import InputError, RecipeError, UserError, did_you_mean
from megatron_ipt.evaluation.harness.presets import Benchmark
from megatron_ipt.progress import Progress

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_CONNECTION = ("ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectTimeout", "ConnectError")


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark with its data: a task, a group of tasks, or the tasks of a tag, as the library has them."""

    benchmark: Benchmark
    items: list[Any]
    is_group: bool


def require_library() -> None:
    """Raises UserError when lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("benchmarks: lm-eval is not installed; `pip install megatron-ipt[eval]` brings what they need")


def version() -> str:
    return importlib.metadata.version("lm-eval")


def load_benchmarks(benchmarks: list[Benchmark], include_path: str) -> list[LoadedBenchmark]:
    """Tasks with their data.

    Args:
        include_path: folder of task files; empty for none.

    Raises:
        UserError: lm-eval is not installed.
        RecipeError: there is no such task.
        InputError: a task's data cannot be had.
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
    """Finds task files. The library's own thousands are read only when some of ``names`` is not in ``include_path``."""
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
    """Lets ``data_files`` of a task file stand beside it: the library looks only in the working directory."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for entry in manager.task_index.values():
        path = entry.yaml_path
        if path is None or not Path(path).resolve().is_relative_to(folder.resolve()):
            continue
        config = load_yaml(path, resolve_func=True)
        files = (config.get("dataset_kwargs") or {}).get("data_files")
        if files:
            config["dataset_kwargs"]["data_files"] = _beside(Path(path).parent, files)
            entry.cfg, entry.yaml_path = config, None


def _beside(folder: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {name: _beside(folder, value) for name, value in files.items()}
    if isinstance(files, list):
        return [_beside(folder, value) for value in files]
    return str(folder.resolve() / files) if (folder / files).exists() else files


def _unknown(name: str, known: list[str], include_path: str) -> str:
    where = f" nor in {include_path}" if include_path else ""
    hint = did_you_mean(name, known)
    return f"{name}: no such task in lm-evaluation-harness{where}.{hint} `lm-eval ls tasks` lists them"


def _load(benchmark: Benchmark, manager: Any) -> LoadedBenchmark:
    entry = manager.task_index[benchmark.task]
    # A task of the index by name; one whose data files were found, by what its file says.
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
            f"benchmark {task}: its data set cannot be fetched: {first}. Run the same command once on a machine that "
            "reaches the hub and copy its cache here (the folder HF_HOME names, ~/.cache/huggingface by default), with "
            "HF_HUB_OFFLINE=1 set from then on; or write a task file over local data and name its folder as "
            "include_path (examples/tasks/ has one)."
        )
    return f"benchmark {task}: its task file or data cannot be used: {type(error).__name__}: {first}"


def open_model(folder: Path, dtype: str, batch_size: int, add_bos_token: bool) -> Any:
    """The model in ``folder`` as the library's own class, with this package's progress instead of its bars.

    Args:
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``auto``: fp32 on CPU; on GPU that of the weights, fp16 for fp32.

    Raises:
        InputError: the folder cannot be loaded.
    """
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    class Model(HFLM):
        label = "benchmark"
        bar: Progress | None = None

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            with Progress(self.label, len(requests), "requests") as self.bar:
                results = super().loglikelihood(requests, disable_tqdm=True)
                # Options of one token share a forward pass.
                self.bar.advance(len(requests) - self.bar.done)
            self.bar = None
            return results

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
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


def _dtype(folder: Path, asked: str, device: str) -> str:
    if asked != "auto":
        return _DTYPES[asked]
    if device == "cpu":
        return "float32"
    from transformers import AutoConfig

    stored = str(AutoConfig.from_pretrained(folder).dtype).removeprefix("torch.")
    return "bfloat16" if stored == "bfloat16" else "float16"


def measure(model: Any, loaded: LoadedBenchmark, limit: int | None, seed: int, label: str) -> dict[str, Any]:
    """Figures of one benchmark, as the library reports them (``results``, ``groups``, ``n-shot``, ``n-samples``)."""
    import lm_eval
    import numpy as np
    import torch

    shots = loaded.benchmark.shots
    for task in _tasks(loaded):
        # As the library's own entry point does: a task that insists on none keeps none.
        own = task.get_config("num_fewshot")
        if own is None or (shots is not None and own != 0):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)
    model.label = label
    with quiet():
        found = {"tasks": {task.task_name: task for task in _tasks(loaded)}, "groups": _groups(loaded)}
        return dict(lm_eval.evaluate(model, found, limit=limit, log_samples=False))


def _tasks(loaded: LoadedBenchmark) -> list[Any]:
    return [task for item in loaded.items for task in (item.get_all_tasks() if loaded.is_group else [item])]


def _groups(loaded: LoadedBenchmark) -> dict[str, Any]:
    if not loaded.is_group:
        return {}
    return {group.name: group for item in loaded.items for group in (item, *item.get_all_groups())}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' notes out of the log; ours say what matters. Warnings come back with ``--verbose``."""
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
            # Bars that draw over themselves do not belong into a log file; our own log has the stream already.
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
