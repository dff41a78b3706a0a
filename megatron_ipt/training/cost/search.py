"""The fastest layout of a model on a number of GPUs that fits their memory, by exhaustive search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.hardware import Gpu
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cost.arrangement import Arrangement
from megatron_ipt.training.cost.memory import Memory, memory_of
from megatron_ipt.training.cost.speed import StepTime, step_time
from megatron_ipt.training.cost.teacher import TeacherLoad

_MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
_TIE = 0.03
"""Relative difference of step times below which the simpler layout wins: well below the error of the time model."""
_ROOMY = 0.85
"""Fraction of the memory up to which a larger micro-batch is preferred."""
_ENOUGH_TOKENS = 8192
"""Tokens of a forward pass above which kernels do not become more efficient."""
_RECOMPUTE = ("none", "selective", "full")


@dataclass(frozen=True)
class Problem:
    """A model, its batch, the machine to lay it out on, and perhaps a teacher with a layout that is given."""

    shape: ModelShape
    padded_vocab_size: int
    seq_length: int
    global_batch_size: int
    precision: str
    vocab_divisor: int
    gpu: Gpu
    gpus: int
    gpus_per_node: int = 8
    teacher: TeacherLoad | None = None

    def measure(self, arrangement: Arrangement) -> Candidate:
        """Memory and speed of ``arrangement``."""
        sizes = self.shape, self.padded_vocab_size, self.seq_length, self.precision, arrangement
        memory, time = memory_of(*sizes), step_time(*sizes, self.gpu, self.gpus_per_node)
        if self.teacher is not None:
            precision, node = self.precision, self.gpus_per_node
            needed = self.teacher.memory_gib(arrangement, self.padded_vocab_size, self.seq_length)
            seconds = self.teacher.seconds(arrangement, self.seq_length, precision, self.gpu, node)
            memory, time = replace(memory, teacher=needed), replace(time, teacher=seconds)
        return Candidate(arrangement, memory, time)


@dataclass(frozen=True)
class Candidate:
    """An arrangement, measured."""

    arrangement: Arrangement
    memory: Memory
    time: StepTime

    def fits(self, gpu: Gpu) -> bool:
        return self.memory.total <= gpu.memory_gib


def search(problem: Problem) -> list[Candidate]:
    """Every arrangement that fits, best first: the simplest of the fastest, then the rest by speed.

    Times within ``_TIE`` count as equal; of those the one with the fewest ranks per copy of the model, no interleaving
    and no recomputation comes first, with the largest micro-batch that leaves some memory free.
    """
    found = [problem.measure(arrangement) for arrangement in arrangements(problem)]
    fitting = sorted(
        (candidate for candidate in found if candidate.fits(problem.gpu)), key=lambda candidate: candidate.time.total
    )
    if not fitting:
        return []
    limit = fitting[0].time.total * (1 + _TIE)
    best = min(
        (candidate for candidate in fitting if candidate.time.total <= limit),
        key=lambda candidate: _complexity(candidate, problem),
    )
    return [best, *(candidate for candidate in fitting if candidate is not best)]


def _complexity(candidate: Candidate, problem: Problem) -> tuple[float, ...]:
    arrangement = candidate.arrangement
    tokens = arrangement.micro_batch_size * problem.seq_length // arrangement.context
    roomy = candidate.memory.total <= _ROOMY * problem.gpu.memory_gib
    return (
        arrangement.tensor * arrangement.pipeline * arrangement.context * arrangement.expert,
        arrangement.virtual,
        _RECOMPUTE.index(arrangement.recompute),
        not roomy,
        -min(tokens, _ENOUGH_TOKENS),
        candidate.time.total,
    )


def smallest_that_fits(problem: Problem, most: int = 16384) -> int | None:
    """Fewest GPUs (in doublings of those asked for) on which something fits; None up to ``most``."""
    gpus = problem.gpus
    while gpus <= most:
        if search(Problem(**{**problem.__dict__, "gpus": gpus})):
            return gpus
        gpus *= 2
    return None


def arrangements(problem: Problem) -> Iterator[Arrangement]:
    """Every arrangement that the model's sizes and the batch allow on exactly ``problem.gpus``."""
    shape = problem.shape
    for tensor in _tensor_sizes(problem):
        for pipeline in _divisors(shape.num_layers):
            if problem.gpus % (tensor * pipeline):
                continue
            for context in _context_sizes(problem, tensor * pipeline):
                data = problem.gpus // (tensor * pipeline * context)
                yield from _batches(problem, tensor, pipeline, context, data)


def _batches(problem: Problem, tensor: int, pipeline: int, context: int, data: int) -> Iterator[Arrangement]:
    layers = problem.shape.num_layers // pipeline
    for micro in _MICRO_BATCHES:
        if problem.global_batch_size % (micro * data):
            continue
        micro_batches = problem.global_batch_size // (micro * data)
        chunks = [1]
        if pipeline > 1 and micro_batches % pipeline == 0:
            chunks += [size for size in _divisors(layers) if size > 1]
        for virtual in chunks:
            for expert in _expert_sizes(problem, data * context):
                for recompute in _RECOMPUTE:
                    yield Arrangement(
                        tensor, pipeline, data, micro, problem.global_batch_size,
                        context=context, expert=expert, virtual=virtual,
                        sequence_parallel=tensor > 1, recompute=recompute,
                    )  # fmt: skip


def _tensor_sizes(problem: Problem) -> list[int]:
    """Within a node, dividing heads, groups, feed-forward width and vocabulary."""
    shape = problem.shape
    sizes = (
        shape.num_attention_heads,
        shape.num_query_groups,
        shape.ffn_hidden_size,
        problem.vocab_divisor,
        problem.seq_length,
        problem.gpus_per_node,
    )
    return [size for size in (1, 2, 4, 8) if all(number % size == 0 for number in sizes)]


def _context_sizes(problem: Problem, taken: int) -> list[int]:
    """1, and more only for sequences that are long enough to benefit."""
    sizes = [1]
    for size in (2, 4, 8):
        if problem.seq_length >= 4096 * size and not problem.gpus % (taken * size):
            sizes.append(size)
    return sizes


def _expert_sizes(problem: Problem, ranks: int) -> list[int]:
    experts = problem.shape.num_moe_experts
    return [size for size in _divisors(experts) if ranks % size == 0] if experts else [1]


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def recipe_arrangement(config: TrainingConfig, gpus: int) -> Arrangement | None:
    """The recipe's own layout on ``gpus``; None if they cannot be divided that way."""
    parallel = config.parallel
    model_ranks = parallel.model_ranks()
    data = gpus // model_ranks
    if gpus % model_ranks or not data or config.global_batch_size % (config.micro_batch_size * data):
        return None
    return Arrangement(
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        data,
        config.micro_batch_size,
        config.global_batch_size,
        context=parallel.context_parallel_size,
        expert=parallel.expert_model_parallel_size,
        virtual=parallel.virtual_pipeline_model_parallel_size or 1,
        sequence_parallel=parallel.sequence_parallel,
        recompute=config.recompute.granularity,
        distributed_optimizer=parallel.use_distributed_optimizer,
        overlap=parallel.overlap_grad_reduce,
    )
