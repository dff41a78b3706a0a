"""AdamW, its learning-rate schedule, and the step counter that Megatron-Core's checkpoints expect.

Without Transformer Engine, Megatron-Core falls back to torch's AdamW, which keeps one ``step`` tensor per parameter.
After loading a checkpoint, its distributed optimizer shares one tensor between all of them, so every step counts many
times; and it fails to load into a fresh optimizer. :class:`GroupStepAdamW` keeps ``step`` in the parameter group, like
the fused Adam of Transformer Engine, and replaces it.
"""

from __future__ import annotations

from typing import Any

import megatron.core.optimizer as megatron_optimizer
import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, clip_grads, distrib_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared
from torch.optim.adamw import adamw

from megatron_ipt.training.config import OptimizerSettings, ParallelConfig, ScheduleConfig
from megatron_ipt.training.cpu.snapshot import stand_in_for_gathering
from megatron_ipt.training.loop.batch_ramp import BatchRamp


class GroupStepAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) with one integer ``step`` per parameter group."""

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        adam_w_mode: bool = True,
    ):
        if not adam_w_mode:
            raise NotImplementedError("only decoupled weight decay")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            group["step"] = group.get("step", 0) + 1
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    self.state[param]["exp_avg"] = torch.zeros_like(param)
                    self.state[param]["exp_avg_sq"] = torch.zeros_like(param)
            # adamw increments the steps itself, in these temporary tensors.
            before = torch.full((len(params),), float(group["step"] - 1), device=params[0].device)
            adamw(
                params,
                [param.grad for param in params],
                [self.state[param]["exp_avg"] for param in params],
                [self.state[param]["exp_avg_sq"] for param in params],
                [],
                list(before.unbind()),
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def _stand_in_for_fused_adam() -> None:
    """Puts :class:`GroupStepAdamW` where Megatron-Core looks for a fused Adam; does nothing if it found one."""
    if not megatron_optimizer.USING_PYTORCH_OPTIMIZER:
        return
    megatron_optimizer.USING_PYTORCH_OPTIMIZER = False
    megatron_optimizer.Adam = GroupStepAdamW
    distrib_optimizer.Adam = GroupStepAdamW
    distrib_optimizer.HAVE_APEX_OR_TE = True
    distrib_optimizer.USING_TE_OPTIMIZER = True
    clip_grads.l2_norm_impl = _l2_norm
    clip_grads.multi_tensor_scale_impl = _scale


def _l2_norm(_: int, __: Any, tensors: list[list[torch.Tensor]], ___: bool) -> tuple[torch.Tensor, None]:
    """Norm of all tensors together, with the signature of Apex's ``multi_tensor_l2norm``; [1]."""
    return torch.stack(torch._foreach_norm(tensors[0])).norm().reshape(1), None


def _scale(_: int, __: Any, tensors: list[list[torch.Tensor]], factor: float) -> None:
    """Scales gradients in place, with the signature of Apex's ``multi_tensor_scale``."""
    torch._foreach_mul_(tensors[1], factor)


def build_optimizer(
    settings: OptimizerSettings,
    parallel: ParallelConfig,
    precision: str,
    chunks: list[DistributedDataParallel],
    fp8_recipe: str | None = None,
) -> MegatronOptimizer:
    """AdamW over the parameters of ``chunks``, with fp32 main weights."""
    _stand_in_for_fused_adam()
    if not torch.cuda.is_available():
        stand_in_for_gathering()
    offload: dict[str, Any] = {}
    if settings.offload_fraction:
        offload = {
            "optimizer_cpu_offload": True,
            "optimizer_offload_fraction": settings.offload_fraction,
            "overlap_cpu_optimizer_d2h_h2d": True,
            "use_precision_aware_optimizer": True,
        }
    config = OptimizerConfig(
        optimizer="adam",
        lr=settings.lr,
        min_lr=least_learning_rate(settings),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_eps=settings.adam_eps,
        clip_grad=settings.clip_grad,
        bf16=precision != "fp32",
        fp8_recipe=fp8_recipe if precision == "fp8" else None,
        params_dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
        use_distributed_optimizer=parallel.use_distributed_optimizer,
        overlap_param_gather=parallel.overlap_param_gather,
        **offload,
    )
    return megatron_optimizer.get_megatron_optimizer(config, chunks, use_gloo_process_groups=False)


def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Prepares the gradients for the optimizer and returns their norm over all ranks, before clipping.

    Megatron-Core's ``step`` would update the weights before the norm can be checked.
    """
    optimizer.prepare_grads()
    return float(optimizer.get_grad_norm() or 0.0)


def update(optimizer: MegatronOptimizer, norm: float) -> None:
    """Clips the gradients, whose norm is ``norm``, and updates the weights."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        parameters = [] if getattr(part, "is_stub_optimizer", False) else part.get_parameters()
        if parameters and part.config.clip_grad > 0:
            clip_grads.clip_grad_by_total_norm_fp32(
                parameters,
                max_norm=part.config.clip_grad,
                total_norm=norm,
                use_decoupled_grad=part.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8,
            )
    optimizer.step_with_ready_grads()


def fit_optimizer_state(state: dict[Any, Any], optimizer: MegatronOptimizer) -> dict[Any, Any]:
    """A loaded state in the form that ``optimizer`` expects.

    Under expert parallelism Megatron-Core has two optimizers, numbered in the checkpoint, otherwise one without a
    number. Tensors are found by name in either case, but not what each optimizer stores once; if the two forms differ,
    it is filled in here: the groups of this run, with the step of the checkpoint.
    """
    unnumbered = {name: value for name, value in state.items() if isinstance(name, str)}
    numbered = {name: value for name, value in state.items() if not isinstance(name, str)}
    if not (unnumbered and numbered):
        return state
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    saved = [part["optimizer"]["param_groups"] for part in (unnumbered, *numbered.values()) if "optimizer" in part]
    step = max(group["step"] for groups in saved for group in groups)
    fitted: dict[Any, Any] = {}
    for number, part in enumerate(parts):
        groups = part.optimizer.state_dict()["param_groups"]
        common = numbered.get(number, {}) | unnumbered if len(parts) == 1 else unnumbered | numbered.get(number, {})
        fitted[number] = common | {"optimizer": {"param_groups": [{**group, "step": step} for group in groups]}}
    return fitted if len(parts) > 1 else fitted[0]


@torch.no_grad()
def parameter_norm(chunks: list[Any]) -> float:
    """Norm of all parameters of the model, each counted once; a collective call."""
    parameters = [
        parameter
        for chunk in chunks
        for parameter in chunk.parameters()
        if param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter)
    ]
    # Experts are also split over data-parallel ranks; everything else is replicated on them.
    first = parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0
    first_of_experts = parallel_state.get_expert_data_parallel_rank() == 0
    own = [
        parameter.detach()
        for parameter in parameters
        if (first if getattr(parameter, "allreduce", True) else first_of_experts)
    ]
    total = torch.zeros((), dtype=torch.float64, device=torch.cuda.current_device())
    if own:
        total += torch.stack(torch._foreach_norm(own, dtype=torch.float32)).double().square().sum()
    torch.distributed.all_reduce(total)
    return float(total.sqrt())


def build_schedule(
    settings: OptimizerSettings,
    schedule: ScheduleConfig,
    optimizer: MegatronOptimizer,
    steps: int,
    ramp: BatchRamp,
) -> OptimizerParamScheduler:
    """The learning-rate schedule over ``steps``, counted in samples as in Megatron-LM.

    The recipe takes precedence over the schedule in a checkpoint, so a run can be extended.
    """
    decay = schedule.lr_decay_iters or steps
    warmup = schedule.lr_warmup_iters
    if warmup is None:
        warmup = int(schedule.lr_warmup_fraction * decay)
    wsd_decay = schedule.lr_wsd_decay_iters or max(1, decay // 10)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=least_learning_rate(settings),
        lr_warmup_steps=ramp.samples_after(min(warmup, decay - 1)),
        lr_decay_steps=ramp.samples_after(decay),
        lr_decay_style=schedule.lr_decay_style,
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=ramp.samples_after(steps),
        wd_incr_style="constant",
        wsd_decay_steps=ramp.samples_after(decay) - ramp.samples_after(decay - min(wsd_decay, decay)),
        lr_wsd_decay_style=schedule.lr_wsd_decay_style,
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )


def least_learning_rate(settings: OptimizerSettings) -> float:
    """``min_lr``; a tenth of ``lr`` if it is not set."""
    return settings.lr / 10 if settings.min_lr is None else settings.min_lr
