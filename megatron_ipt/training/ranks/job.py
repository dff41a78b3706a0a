"""What a launcher tells the ranks: settings and context in one JSON file.

Ranks run in their own processes, because the CPU replacement for CUDA patches torch and must not affect other stages.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from megatron_ipt.config import as_dict
from megatron_ipt.files import read_json, write_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.training.config import TrainingConfig


@dataclass(frozen=True)
class Job:
    """Settings, context, and the folder for reports of the ranks."""

    config: TrainingConfig
    context: StageContext
    report: Path

    def write(self, path: Path) -> None:
        context = asdict(self.context)
        context["directory"] = str(self.context.directory)
        context["inputs"] = {name: str(folder) for name, folder in self.context.inputs.items()}
        write_json(path, {"config": as_dict(self.config), "context": context, "report": str(self.report)})

    @classmethod
    def read(cls, path: Path) -> Job:
        values = read_json(path)
        settings = OmegaConf.merge(OmegaConf.structured(TrainingConfig), values["config"])
        context = values["context"]
        context["directory"] = Path(context["directory"])
        context["inputs"] = {name: Path(folder) for name, folder in context["inputs"].items()}
        return cls(cast(TrainingConfig, OmegaConf.to_object(settings)), StageContext(**context), Path(values["report"]))
