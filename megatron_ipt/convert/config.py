"""Recipe section ``export``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class ExportConfig:
    iteration: int | None = key(None, "Checkpoint to export; the latest if null.", minimum=1)
    dtype: str = key(
        "auto",
        "Type of the exported weights; auto keeps the checkpoint's.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    max_shard_size: str = key("5GB", "Largest safetensors file, e.g. 500MB or 5GB.")
    workers: int = key(2, "Threads.", minimum=1, affects_output=False)
