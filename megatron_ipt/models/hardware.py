"""GPUs as cost models see them: memory, links, and how much of the peak the kernels of a training step reach.

``kernel_share`` is the fitted number of the time model: the fraction of dense peak that the matrix products and
attention of a very wide layer reach together, before communication and pipeline bubbles. It is fitted, one number per
GPU and precision, to the published runs in ``tests/training/cost/published.py``; the tests there bound the error that
remains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from megatron_ipt.errors import RecipeError
from megatron_ipt.models.flops import PEAK_TFLOPS

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One type of GPU.

    Attributes:
        name: as in :data:`~megatron_ipt.models.flops.PEAK_TFLOPS`.
        memory_gib: what the driver reports, in GiB.
        nvlink_gb_s: to the GPUs of the same node, GB/s per direction (data sheet).
        network_gb_s: to other nodes, GB/s per direction and GPU, with the usual one adapter per GPU.
        memory_gb_s: of its own memory, GB/s (data sheet).
        kernel_share: fraction of dense peak, by precision.
        generation: speed at generating text relative to an H100.
    """

    name: str
    memory_gib: float
    nvlink_gb_s: float
    network_gb_s: float
    memory_gb_s: float
    kernel_share: dict[str, float] = field(default_factory=dict)
    generation: float = 1.0

    def precisions(self) -> tuple[str, ...]:
        """What its tensor cores compute in."""
        return tuple(PEAK_TFLOPS[self.name])

    def peak_flops(self, precision: str) -> float:
        """Dense floating-point operations per second in one of :meth:`precisions`."""
        return PEAK_TFLOPS[self.name][precision] * 1e12


GPUS = {
    "a100": Gpu("A100", 79.1, 300, 25, 2039, {"bf16": 0.635}, generation=0.48),
    "a100-40gb": Gpu("A100", 39.4, 300, 25, 1555, {"bf16": 0.635}, generation=0.40),
    "h100": Gpu("H100", 79.1, 450, 50, 3350, {"bf16": 0.60, "fp8": 0.72}),
    "h200": Gpu("H200", 139.8, 450, 50, 4800, {"bf16": 0.60, "fp8": 0.72}, generation=1.17),
    "b200": Gpu("B200", 178.3, 900, 50, 8000, {"bf16": 0.60, "fp8": 0.72}, generation=1.8),
}
"""By the name that the command line takes. B200 is scaled by data sheet and was not validated against any run."""


def gpu_named(name: str) -> Gpu:
    """The GPU called ``name``.

    Raises:
        RecipeError: it is not in the table.
    """
    if name.lower() not in GPUS:
        raise RecipeError(f"--gpu {name}: unknown GPU; known: {', '.join(GPUS)}")
    return GPUS[name.lower()]
