"""The site file: settings of a cluster as shell variables, read by the scripts and here by the same shell."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from megatron_ipt.errors import RecipeError, did_you_mean
from megatron_ipt.stages import all_stages

OPTIONS = {
    "ACCOUNT": "--account",
    "PARTITION": "--partition",
    "QOS": "--qos",
    "CONSTRAINT": "--constraint",
    "RESERVATION": "--reservation",
    "EXCLUDE": "--exclude",
    "TIME": "--time",
    "NODES": "--nodes",
    "GPUS_PER_NODE": "--gpus-per-node",
    "GPUS_PER_TASK": "--gpus-per-task",
    "CPUS_PER_TASK": "--cpus-per-task",
    "MEM": "--mem",
}
"""Settings that are options of sbatch."""

OTHERS = (
    "ARRAY_TASKS", "ARRAY_RUNNING", "SBATCH_OPTIONS", "LOG_DIR", "VENV", "PYXIS_IMAGE", "APPTAINER_IMAGE",
    "CONTAINER_MOUNTS", "MODULES", "HOST_PYTHON", "PREFLIGHT", "RANKS_PER_NODE",
)  # fmt: skip

MERGE = "merge"
"""Prefix, instead of a stage's name, for the jobs that complete a stage after its array."""
_ASSIGNMENT = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Z][A-Z0-9_]*)=", re.MULTILINE)
_SIMILAR = 0.85


@dataclass(frozen=True)
class Site:
    """Settings of a cluster.

    Attributes:
        path: of the file.
        values: by name.
    """

    path: Path
    values: dict[str, str] = field(default_factory=dict)

    def get(self, stage: str, name: str, default: str = "") -> str:
        """``STAGE_NAME`` where the site sets it, else ``NAME``, else ``default``."""
        own = f"{stage.upper()}_{name}"
        return self.values[own] if own in self.values else self.values.get(name, default)

    def number(self, stage: str, name: str, default: int) -> int:
        """The same as a whole number.

        Raises:
            RecipeError: it is not one.
        """
        text = self.get(stage, name) or str(default)
        if not text.isdigit():
            raise RecipeError(f"{self.path}: {stage.upper()}_{name} or {name} is {text!r}; expected a whole number")
        return int(text)


def read_site(path: str | Path) -> Site:
    """Reads a site file.

    Raises:
        RecipeError: the file is missing, bash cannot read it, or it sets a name that looks like a misspelt setting.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise RecipeError(f"{path}: no such site file; copy slurm/site.env.example and edit it")
    known = {*OPTIONS, *OTHERS}
    prefixes = [name.upper() for name in (*(stage.name for stage in all_stages()), MERGE)]
    names = known | {f"{prefix}_{name}" for prefix in prefixes for name in known}
    for name in _ASSIGNMENT.findall(path.read_text()):
        near = did_you_mean(name, names, cutoff=_SIMILAR)
        if name not in names and near:
            raise RecipeError(f"{path}: {name} is not a setting.{near}")
    # Variables of the user's shell that happen to have these names are not the site's.
    environment = {name: value for name, value in os.environ.items() if name not in names}
    script = 'set -aeu; source "$1"; env -0'
    result = subprocess.run(
        ["bash", "-c", script, "bash", str(path)], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RecipeError(f"{path}: bash cannot read it: {result.stderr.strip()}")
    pairs = (entry.partition("=") for entry in result.stdout.split("\0") if entry)
    return Site(path, {name: value for name, _, value in pairs if name in names})
