from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.hardware import GIB, gpu_named
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.training.cost.arrangement import Arrangement
from megatron_ipt.training.cost.search import Problem, search
from megatron_ipt.training.cost.teacher import TeacherLoad

H100 = gpu_named("h100")
STUDENT = Arrangement(1, 1, 8, micro_batch_size=1, global_batch_size=64)


def llama_8b() -> ModelShape:
    return resolve_shape({"preset": "llama3_8b"})


def problem(teacher: TeacherLoad | None, gpus: int = 8) -> Problem:
    student = resolve_shape({"preset": "llama3_8b", "num_layers": 8})
    return Problem(student, 128256, 4096, 64, "bf16", 128, H100, gpus, teacher=teacher)


def test_memory_is_weights_hidden_states_and_logits() -> None:
    teacher = TeacherLoad(llama_8b(), 128256, 1, 1, 2)
    numbers = (
        8_030_261_248  # published number of parameters
        + 128256 * 4096  # output layer where the loss is computed
        + 8 * 4096 * 4096  # last hidden states of the eight sequences of a step
        + 2 * 4096 * 128256  # logits and a gradient
    )
    assert teacher.parameters == 8_030_261_248
    assert teacher.memory_gib(STUDENT, 128256, 4096) == pytest.approx(2 * numbers / GIB)


def test_a_layout_of_its_own_divides_the_weights() -> None:
    whole, divided = (TeacherLoad(llama_8b(), 128256, *sizes, 2) for sizes in ((1, 1), (4, 2)))
    saved = whole.memory_gib(STUDENT, 128256, 4096) - divided.memory_gib(STUDENT, 128256, 4096)
    # The fullest stage has half of the layers and one of the two embeddings.
    layers, embedding = 8_030_261_248 - 2 * 128256 * 4096, 128256 * 4096
    held = (layers / 2 + embedding) / 4
    assert saved == pytest.approx(2 * (8_030_261_248 - held) / GIB, rel=1e-3)


def test_a_forward_pass_of_an_equal_model_takes_a_third_of_its_step() -> None:
    shape = problem(None).shape
    teacher = TeacherLoad(shape, 128256, 1, 1, 2)
    time = problem(teacher).measure(STUDENT).time
    assert time.teacher == pytest.approx(time.compute / 3)
    assert time.total == pytest.approx(problem(None).measure(STUDENT).time.total + time.teacher)


def test_layouts_that_do_not_fit_beside_the_teacher_are_not_found() -> None:
    teacher = TeacherLoad(llama_8b(), 128256, 1, 1, 2)
    alone, beside = search(problem(None, gpus=1)), search(problem(teacher, gpus=1))
    assert len(beside) < len(alone)
    assert all(candidate.memory.total <= H100.memory_gib for candidate in beside)
    huge = replace(teacher, bytes_each=16)
    assert search(problem(huge, gpus=1)) == []


def test_tables_name_the_teacher_only_if_there_is_one() -> None:
    with_teacher = problem(TeacherLoad(llama_8b(), 128256, 8, 1, 2)).measure(STUDENT)
    without = problem(None).measure(STUDENT)
    for one, other in ((with_teacher.memory, without.memory), (with_teacher.time, without.time)):
        assert set(one.as_dict()) - set(other.as_dict()) == {"teacher"}
        assert one.as_dict()["total"] == pytest.approx(sum(v for k, v in one.as_dict().items() if k != "total"))
