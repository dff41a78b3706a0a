"""Who holds which part of the teacher, and works for whom. Plain arithmetic on ranks.

A *cell* is the ranks that train one copy of the student on the same samples: tensor x pipeline parallel ones. A teacher
that takes fewer ranks than a cell is there several times in each, and its copies take turns with the micro-batches. One
that takes more spans several neighbouring cells and works for all of them. Either way the ranks fall into *clusters*
that have nothing to do with one another, and every rank has a part of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ipt.errors import RecipeError
from megatron_ipt.models import divisibility
from megatron_ipt.training.ranks.layout import Layout


@dataclass(frozen=True)
class TeacherLayout:
    """Attributes:
    student: layout of the model that is trained.
    tensor, pipeline: parallel sizes of the teacher.
    """

    student: Layout
    tensor: int
    pipeline: int

    @classmethod
    def of(cls, student: Layout, tensor: int, pipeline: int) -> TeacherLayout:
        """Raises:
        RecipeError: copies of the teacher and of the student do not fit into each other.
        """
        layout = cls(student, tensor, pipeline)
        own, cell = layout.model_ranks, layout.cell_ranks
        keys = "training.distillation.teacher: tensor_model_parallel_size x pipeline_model_parallel_size"
        if own % cell and cell % own:
            fitting = divisibility.divisors(cell, own)
            raise RecipeError(
                f"{keys} is {own} ranks, the student's {cell}; one must be a multiple of the other (nearest that "
                f"divide the student's: {fitting})"
            )
        if own > cell and student.context > 1:
            raise RecipeError(f"{keys} is {own} ranks; with context parallelism at most the student's {cell}")
        if own > cell and student.data % (own // cell):
            raise RecipeError(
                f"{keys} is {own} ranks, so {own // cell} copies of the student share one teacher, which does not "
                f"divide the {student.data} data-parallel ranks"
            )
        return layout

    @property
    def model_ranks(self) -> int:
        """Ranks of a copy of the teacher."""
        return self.tensor * self.pipeline

    @property
    def cell_ranks(self) -> int:
        """Ranks of a copy of the student with the same samples."""
        return self.student.tensor * self.student.pipeline

    @property
    def cells(self) -> int:
        """Of a cluster."""
        return max(1, self.model_ranks // self.cell_ranks)

    @property
    def copies(self) -> int:
        """Of the teacher, in a cluster."""
        return max(1, self.cell_ranks // self.model_ranks)

    def clusters(self) -> list[list[int]]:
        """Ranks of each cluster: cell after cell; in a cell stage after stage, in a stage in the order of tensor
        parallelism. Megatron-Core numbers ranks by tensor, context, data and pipeline, from fast to slow."""
        sizes = self.student
        places = [(data, context) for data in range(sizes.data) for context in range(sizes.context)]
        ranks = [
            tensor + sizes.tensor * (context + sizes.context * (data + sizes.data * stage))
            for data, context in places
            for stage in range(sizes.pipeline)
            for tensor in range(sizes.tensor)
        ]
        return _parts(ranks, self.cells * self.cell_ranks)

    def tensor_groups(self) -> list[list[int]]:
        """Ranks that split the teacher's layers among them."""
        return [stage for copy in self._copies() for stage in _parts(copy, self.tensor)]

    def pipeline_groups(self) -> list[list[int]]:
        """Ranks that pass on the teacher's hidden states, in order."""
        return [list(copy[first :: self.tensor]) for copy in self._copies() for first in range(self.tensor)]

    def same_part_groups(self) -> list[list[int]]:
        """Ranks that hold the same part of the teacher."""
        return [list(ranks) for ranks in zip(*self._copies())]

    def peer_groups(self) -> list[list[int]]:
        """Ranks with the same place in the cells of a cluster, in the order of the cells."""
        return [list(ranks[place :: self.cell_ranks]) for ranks in self.clusters() for place in range(self.cell_ranks)]

    def turns(self, cluster: Sequence[int], micro_batches: int) -> list[Turn]:
        """Who works on which micro-batch of which cell, in the order of the work."""
        copies, cells = _parts(cluster, self.model_ranks), _parts(cluster, self.cell_ranks)
        turns: list[Turn] = []
        for micro_batch in range(micro_batches):
            for cell, ranks in enumerate(cells):
                copy = copies[len(turns) % self.copies]
                learners = ranks[-self.student.tensor :]
                turns.append(Turn(micro_batch, cell, tuple(copy), self._senders(copy, learners), tuple(learners)))
        return turns

    def _senders(self, copy: Sequence[int], learners: Sequence[int]) -> tuple[int, ...]:
        """From which rank of the copy's last stage each learner gets the hidden states: itself if it has them."""
        last = copy[-self.tensor :]
        return tuple(rank if rank in last else last[index % len(last)] for index, rank in enumerate(learners))

    def _copies(self) -> list[list[int]]:
        return [copy for cluster in self.clusters() for copy in _parts(cluster, self.model_ranks)]


@dataclass(frozen=True)
class Turn:
    """A micro-batch of a cell.

    Attributes:
        copy: ranks of the copy of the teacher that runs it.
        senders: rank that has the result for each of the learners.
        learners: ranks of the cell that compute the loss, in the order of tensor parallelism.
    """

    micro_batch: int
    cell: int
    copy: tuple[int, ...]
    senders: tuple[int, ...]
    learners: tuple[int, ...]


def _parts(ranks: Sequence[int], size: int) -> list[list[int]]:
    return [list(ranks[first : first + size]) for first in range(0, len(ranks), size)]
