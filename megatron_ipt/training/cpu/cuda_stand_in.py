"""Lets Megatron-Core run without a GPU, by replacing the CUDA calls it makes.

Megatron-Core refers to the CUDA device about 250 times: as ``device=`` of tensor factories, as streams and events, as
random state. :func:`install` replaces these entry points of torch, for the whole process, with CPU equivalents, so
there is one code path for both. It does nothing if there is a GPU. Because it patches torch itself, it belongs in a
separate process, and must run before Megatron-Core is imported, whose decorators call ``torch.compile`` on import.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

_FACTORIES = (
    "arange", "empty", "empty_like", "full", "full_like", "linspace", "ones", "ones_like", "rand", "randn", "tensor",
    "zeros", "zeros_like",
)  # fmt: skip
_installed = False


class _Stream(torch.cpu.Stream):
    """A stream whose work is always done, in order."""

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def wait_event(self, event: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class _Event:
    """An event of such a stream."""

    def __init__(self, *_: Any, **__: Any): ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0


def install() -> None:
    """Replaces torch's CUDA entry points in this process; does nothing with a GPU, or when called again."""
    global _installed
    if _installed or torch.cuda.is_available():
        return
    _installed = True
    # Rules for forward-mode derivatives are compiled on import, from torch's own functions.
    importlib.import_module("torch._decomp.decompositions_for_jvp")
    torch.compile = _identity_decorator
    _stand_in_for_device()
    _stand_in_for_random_state()
    _stand_in_for_factories()
    _stand_in_for_tensor_methods()
    _keep_the_compiler_away()

    # Imported last: it decorates functions with torch.compile, and binds what has been replaced above.
    import megatron.core.tensor_parallel.random as megatron_random

    megatron_random._set_cuda_rng_state = lambda new_state, device=-1, graph_safe=False: torch.set_rng_state(new_state)
    _stand_in_for_expert_dispatch()
    _stand_in_for_exchange_with_oneself()


def _stand_in_for_exchange_with_oneself() -> None:
    """Skips collectives within a group of one rank, for which gloo would copy all gradients and weights."""
    from megatron.core.distributed import param_and_grad_buffer

    def skipped_alone(collective: Callable[..., Any]) -> Callable[..., Any]:
        def exchange(
            output: torch.Tensor, own: torch.Tensor, *, group: Any, async_op: bool = False, **options: Any
        ) -> Any:
            if async_op or group.size() > 1:
                return collective(output, own, group=group, async_op=async_op, **options)
            if output.data_ptr() != own.data_ptr():
                output.copy_(own)
            return None

        return exchange

    for name in ("dist_reduce_scatter_func", "dist_all_gather_func"):
        setattr(param_and_grad_buffer, name, skipped_alone(getattr(param_and_grad_buffer, name)))


def _stand_in_for_expert_dispatch() -> None:
    """Replaces what needs Transformer Engine or a GPU: a kernel of the router, and how the dispatcher counts tokens."""
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    def on_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    moe_utils.te_general_gemm = None
    token_dispatcher.maybe_move_tensor_to_cpu = on_host


def _identity_decorator(model: Any = None, **_: Any) -> Any:
    return (lambda function: function) if model is None else model


def _keep_the_compiler_away() -> None:
    """Marks optimizers as exempt from compilation, for which torch would import its compiler: a second saved."""
    for method in vars(torch.optim.Optimizer).values():
        exempt = getattr(method, "__wrapped__", None)
        if exempt is not None:
            exempt.__dynamo_disable = exempt


def _does_nothing() -> Callable[..., None]:
    """A new function each time: torch._dynamo rejects a function with two names."""
    return lambda *_, **__: None


def _answers_zero() -> Callable[..., int]:
    return lambda *_, **__: 0


@contextlib.contextmanager
def _stream_context(_: Any) -> Iterator[None]:
    yield


def _stand_in_for_device() -> None:
    stream = _Stream()
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.Stream = _Stream
    torch.cuda.Event = _Event
    torch.cuda.stream = _stream_context
    torch.cuda.current_stream = lambda device=None: stream
    torch.cuda.default_stream = lambda device=None: stream
    torch.cuda.is_current_stream_capturing = lambda: False
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        setattr(torch.cuda, name, _does_nothing())
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(torch.cuda, name, _answers_zero())
    for name in ("range_push", "range_pop", "mark"):
        setattr(torch.cuda.nvtx, name, _does_nothing())


def _stand_in_for_random_state() -> None:
    for module in (torch.cuda, torch.cuda.random):
        module.get_rng_state = lambda device=None: torch.get_rng_state()
        module.set_rng_state = lambda new_state, device=None: torch.set_rng_state(new_state)
        module.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)


def _is_cuda(device: Any) -> bool:
    return str(device).startswith("cuda")


def _stand_in_for_factories() -> None:
    def on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(factory)
        def make(*arguments: Any, **options: Any) -> Any:
            if options:
                options.pop("pin_memory", None)
                if _is_cuda(options.get("device")):
                    options["device"] = "cpu"
            return factory(*arguments, **options)

        return make

    for name in _FACTORIES:
        setattr(torch, name, on_cpu(getattr(torch, name)))


def _stand_in_for_tensor_methods() -> None:
    own_type = torch.Tensor.type

    def type_name(tensor: torch.Tensor, dtype: Any = None, **options: Any) -> Any:
        # Gradient clipping and the optimizers distinguish precisions by these names.
        if dtype is None:
            return own_type(tensor).replace("torch.", "torch.cuda.", 1)
        return own_type(tensor, dtype, **options)

    torch.Tensor.type = type_name
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    torch.Tensor.pin_memory = lambda tensor, *_, **__: tensor
