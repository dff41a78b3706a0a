from __future__ import annotations

from itertools import product

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.training.ranks.layout import Layout
from megatron_ipt.training.teacher.layout import TeacherLayout


def student(tensor: int, pipeline: int, data: int, context: int = 1) -> Layout:
    return Layout(tensor * pipeline * data * context, tensor, pipeline, data, 4, context)


def test_copies_of_a_small_teacher_take_turns_within_a_copy_of_the_student() -> None:
    layout = TeacherLayout.of(student(2, 2, 2), 1, 2)
    # Megatron-Core numbers ranks by tensor, data and pipeline.
    assert layout.clusters() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert layout.pipeline_groups() == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert layout.same_part_groups() == [[0, 4, 2, 6], [1, 5, 3, 7]]
    turns = layout.turns(layout.clusters()[1], 3)
    assert [(turn.micro_batch, turn.cell, turn.copy) for turn in turns] == [
        (0, 0, (2, 3)), (1, 0, (6, 7)), (2, 0, (2, 3)),
    ]  # fmt: skip
    assert all(turn.learners == (6, 7) for turn in turns)
    # What the last stage of the teacher already has is not sent.
    assert [turn.senders for turn in turns] == [(3, 3), (7, 7), (3, 3)]


def test_a_large_teacher_works_for_several_copies_of_the_student() -> None:
    layout = TeacherLayout.of(student(1, 2, 4), 2, 2)
    assert layout.clusters() == [[0, 4, 1, 5], [2, 6, 3, 7]]
    assert layout.tensor_groups() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert layout.peer_groups() == [[0, 1], [4, 5], [2, 3], [6, 7]]
    turns = layout.turns(layout.clusters()[0], 2)
    assert [(turn.micro_batch, turn.cell) for turn in turns] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {turn.copy for turn in turns} == {(0, 4, 1, 5)}
    assert [(turn.learners, turn.senders) for turn in turns[:2]] == [((4,), (1,)), ((5,), (5,))]


@pytest.mark.parametrize("sizes", product((1, 2, 4), (1, 2), (1, 2, 4), (1, 2), (1, 2, 4), (1, 2, 4)))
def test_every_rank_has_one_part_and_every_micro_batch_one_copy(sizes: tuple[int, ...]) -> None:
    tensor, pipeline, data, context, own_tensor, own_pipeline = sizes
    try:
        layout = TeacherLayout.of(student(tensor, pipeline, data, context), own_tensor, own_pipeline)
    except RecipeError:
        return
    ranks = list(range(layout.student.world_size))
    for groups, size in (
        (layout.clusters(), max(layout.model_ranks, layout.cell_ranks)),
        (layout.tensor_groups(), own_tensor),
        (layout.pipeline_groups(), own_pipeline),
        (layout.same_part_groups(), len(ranks) // layout.model_ranks),
        (layout.peer_groups(), layout.cells),
    ):
        assert sorted(rank for group in groups for rank in group) == ranks
        assert {len(group) for group in groups} == {size}
    for cluster in layout.clusters():
        turns = layout.turns(cluster, 3)
        assert sorted((turn.micro_batch, turn.cell) for turn in turns) == list(product(range(3), range(layout.cells)))
        for turn in turns:
            assert set(turn.copy) <= set(cluster) and set(turn.learners) <= set(cluster)
            assert set(turn.senders) <= set(turn.copy[-own_tensor:])
            assert len(turn.senders) == len(turn.learners) == tensor
        # The learners of the run are the last stage, each with its own columns of the vocabulary.
        assert all([rank % tensor for rank in turn.learners] == list(range(tensor)) for turn in turns)
        last = layout.student.world_size - layout.student.world_size // pipeline
        assert all(rank >= last for turn in turns for rank in turn.learners)


@pytest.mark.parametrize(
    ("layout", "sizes", "message"),
    [
        (student(2, 1, 2), (3, 1), r"is 3 ranks, the student's 2; one must be a multiple .*\(nearest .*: 2\)"),
        (student(1, 1, 2, context=2), (2, 1), "is 2 ranks; with context parallelism at most the student's 1"),
        (student(1, 1, 3), (2, 1), "2 copies of the student share one teacher, which does not divide the 3 data"),
    ],
)
def test_layouts_that_do_not_fit(layout: Layout, sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TeacherLayout.of(layout, *sizes)
