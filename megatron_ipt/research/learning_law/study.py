"""Runs a search for a policy that can be interrupted, and writes its policy, figures and pictures.

The state of the search is one file, written every few minutes: weights, length of the next step, history and what was
measured along the way. A continued search takes the same steps as one that was never interrupted, bit for bit.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron_ipt.config import as_dict
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import atomic_open, write_json
from megatron_ipt.manifest import fingerprint_file
from megatron_ipt.progress import duration
from megatron_ipt.research.learning_law.config import PolicyConfig
from megatron_ipt.research.learning_law.measures import (
    compression_ratio,
    contributions,
    fit_scaling_law,
    speed_up,
)
from megatron_ipt.research.learning_law.perceptron import perceptron
from megatron_ipt.research.learning_law.policy import (
    Gradient,
    Model,
    Search,
    optimality,
    run_search,
    trajectory,
    uniform,
)
from megatron_ipt.research.learning_law.transformer import transformer
from megatron_ipt.training.policy_file import write_policy

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

STATE = "search.npz"
RESULTS = "results.json"
POLICY = "policy"
_CURVE_POINTS = 200


def run_study(config: PolicyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Searches, and writes ``policy/``, ``results.json``, ``study.png`` and ``study.svg`` to ``output_dir``.

    Args:
        overwrite: begin again where a search with other settings is.

    Returns:
        The content of ``results.json``.

    Raises:
        StageError: the folder has a search with other settings, or a loss is not finite.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model, damaged = build(config)
    identity = _identity(config)
    state = _State(folder / STATE, identity, overwrite)
    search = state.read() or Search(uniform(config.steps, model.examples), config.policy_learning_rate)
    measured_at = snapshots(config.epochs, config.snapshots)
    begin, first = time.monotonic(), search.epoch

    def after_pass(now: Search, best: Gradient) -> None:
        if now.epoch in measured_at and all(point["epoch"] != now.epoch for point in state.points):
            state.points.append(_point(model, now, best))
        state.write_sometimes(now, config.save_minutes)
        entry = now.history[-1]
        each = (time.monotonic() - begin) / max(1, now.epoch - first)
        logger.info(
            "policy: pass %d of %d, area %.5f, left to gain %.2e, step %.2e%s; %s left at most",
            now.epoch, config.epochs, entry["area"], entry["gap"], entry["length"],
            "" if entry["accepted"] else " (taken back)", duration((config.epochs - now.epoch) * each),
        )  # fmt: skip

    best = run_search(model, search, config.epochs, config.adapt, config.tolerance, after_pass)
    state.write(search)
    write_policy(folder / POLICY, search.weights.numpy(), {"model": model.name, "settings": identity["settings"]})
    results = _results(model, search, best, state.points, damaged)
    results["settings"] = identity["settings"]
    write_json(folder / RESULTS, results)
    from megatron_ipt.research.learning_law.plot import save

    save(config.name, results, [folder / "study.png", folder / "study.svg"])
    return results


def build(config: PolicyConfig) -> tuple[Model, list[bool]]:
    """The model of a study, and which of its training examples are damaged (none of a perceptron's)."""
    import torch

    dtype = {"fp64": torch.float64, "fp32": torch.float32}[config.precision]
    if config.model == "transformer":
        return transformer(config.transformer, config.learning_rate, config.seed, dtype)
    return perceptron(config.perceptron, config.learning_rate, config.seed, dtype), []


def snapshots(epochs: int, count: int) -> set[int]:
    """Passes after which contributions are measured: the start, then each as many times later, up to the last."""
    return {0, *(round(epochs ** (number / count)) for number in range(1, count + 1))} if epochs else {0}


def _identity(config: PolicyConfig) -> dict[str, Any]:
    settings = as_dict(config, only_output=True)
    # More passes, or a finer end, continue the same search.
    for name in ("epochs", "tolerance", "snapshots", "name"):
        settings.pop(name)
    settings.pop({"perceptron": "transformer", "transformer": "perceptron"}[config.model])
    files = [fingerprint_file(config.transformer.text)] if config.model == "transformer" else []
    return {"settings": settings, "files": files}


class _State:
    """The file that a search continues from."""

    def __init__(self, path: Path, identity: dict[str, Any], overwrite: bool):
        self._path = path
        self._identity = identity
        self._overwrite = overwrite
        self._written = time.monotonic()
        self.points: list[dict[str, Any]] = []

    def read(self) -> Search | None:
        import torch

        if self._overwrite or not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as stored:
                weights, text = stored["weights"], str(stored["description"])
            description = json.loads(text)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self._path}: cannot be read: {error}; --overwrite begins the search again") from error
        if description["identity"] != json.loads(json.dumps(self._identity)):
            old, new = description["identity"]["settings"], self._identity["settings"]
            changed = [name for name in new if old.get(name) != new[name]] or ["the file of text"]
            raise StageError(
                f"{self._path}: is a search with other settings ({', '.join(changed)}); choose another output_dir, or "
                "begin again with --overwrite"
            )
        self.points = description["points"]
        return Search(torch.from_numpy(weights), description["length"], description["epoch"], description["history"])

    def write_sometimes(self, search: Search, minutes: float) -> None:
        if time.monotonic() - self._written >= 60 * minutes:
            self.write(search)

    def write(self, search: Search) -> None:
        description = {
            "identity": self._identity,
            "length": search.length,
            "epoch": search.epoch,
            "history": search.history,
            "points": self.points,
        }
        with atomic_open(self._path) as stream:
            np.savez(stream, weights=search.weights.numpy(), description=np.array(json.dumps(description)))
        self._written = time.monotonic()


def _point(model: Model, search: Search, best: Gradient) -> dict[str, Any]:
    """What a policy along the search is like, on the test examples."""
    found = contributions(model, search.weights, every=max(1, len(search.weights) // _CURVE_POINTS))
    known = np.flatnonzero(np.isfinite(found.similarity))
    return {
        "epoch": search.epoch,
        "area": best.area,
        "compression": compression_ratio(found.test, model.vocabulary),
        "similarity": float(found.similarity[known].mean()) if len(known) else None,
        "curve": {"loss": found.test[known].tolist(), "similarity": found.similarity[known].tolist()},
        "left_out": found.left_out,
    }


def _results(
    model: Model, search: Search, best: Gradient, points: list[dict[str, Any]], damaged: list[bool]
) -> dict[str, Any]:
    steps = len(search.weights)
    policy, _ = _curves(model, search.weights)
    conventional, desired = _curves(model, uniform(steps, model.examples))
    found = optimality(search.weights, best.gains)
    return {
        "model": model.name,
        "examples": model.examples,
        "steps": steps,
        "epochs": search.epoch,
        "area": {"conventional": search.history[0]["area"], "policy": best.area},
        "optimality": {**asdict(found), "first_gap": search.history[0]["gap"]},
        "speed_up": {"desired": speed_up(desired, best.desired.numpy()), "test": speed_up(conventional, policy)},
        "last_loss": {"conventional": float(conventional[-1]), "policy": float(policy[-1])},
        "compression": {
            "conventional": compression_ratio(conventional, model.vocabulary),
            "policy": compression_ratio(policy, model.vocabulary),
        },
        "scaling_law": _laws({"conventional": conventional, "policy": policy}),
        "examples_with_weight": float((search.weights > 0).double().sum(1).mean()),
        "weight_of_damaged": _weight_of(search.weights, damaged),
        "history": search.history,
        "points": points,
        "desired": {"conventional": desired.tolist(), "policy": best.desired.tolist()},
        "test": {"conventional": conventional.tolist(), "policy": policy.tolist()},
    }


def _curves(model: Model, weights: torch.Tensor) -> tuple[Any, Any]:
    """Losses of test and of desired examples before each step and after the last."""
    pairs = [(float(model.test(theta)), float(model.calculus.target(theta)[0])) for theta in trajectory(model, weights)]
    test, desired = np.array(pairs).T
    return test, desired


def _laws(curves: dict[str, Any]) -> dict[str, Any]:
    """Fits over steps spread evenly in their logarithm; None where a curve does not fall."""
    laws: dict[str, Any] = {}
    for name, losses in curves.items():
        steps = sorted({round(step) for step in np.geomspace(max(1, (len(losses) - 1) // 100), len(losses) - 1, 60)})
        try:
            laws[name] = asdict(fit_scaling_law(steps, losses[steps]))
        except InputError:
            laws[name] = None
    return laws


def _weight_of(weights: torch.Tensor, damaged: list[bool]) -> float | None:
    """Share of all weight that is on damaged examples; None if none is."""
    if not any(damaged):
        return None
    return float(weights[:, [place for place, mark in enumerate(damaged) if mark]].sum() / len(weights))


def table(results: dict[str, Any]) -> str:
    """The main figures as a Markdown table."""
    laws = results["scaling_law"]

    def law(name: str, key: str) -> str:
        return "–" if laws[name] is None else f"{laws[name][key]:.3g}"

    rows = [
        ("area under the desired loss", *(f"{results['area'][name]:.4f}" for name in ("conventional", "policy"))),
        ("last desired loss", *(f"{results['desired'][name][-1]:.4f}" for name in ("conventional", "policy"))),
        ("last test loss", *(f"{results['last_loss'][name]:.4f}" for name in ("conventional", "policy"))),
        ("compression ratio of test", *(f"{results['compression'][name]:.3f}" for name in ("conventional", "policy"))),
        ("scaling law of test, B", law("conventional", "scale"), law("policy", "scale")),
        ("scaling law of test, β", law("conventional", "exponent"), law("policy", "exponent")),
        ("left to gain, first order", *(f"{results['optimality'][name]:.3g}" for name in ("first_gap", "gap"))),
        *((f"speed-up, {name}", "1", _times(results["speed_up"][name])) for name in ("desired", "test")),
    ]
    lines = ["| | conventional | policy |", "|---|--:|--:|"]
    return "\n".join(lines + [f"| {name} | {one} | {other} |" for name, one, other in rows])


def _times(speed: float | None) -> str:
    return "never as low" if speed is None else f"{speed:.2f}"
