"""Recipe section ``report``."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.config import key


@dataclass
class ReportConfig:
    samples: int = key(6, "Sample documents shown in full, of each stage that has some.", minimum=0)
