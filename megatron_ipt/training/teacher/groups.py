"""Process groups of the teacher, beside those of the model that is trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection

from megatron_ipt.training.teacher.layout import TeacherLayout


class TeacherGroups(NamedTuple):
    """Attributes:
    model: as Megatron-Core's models and schedules take them.
    peers: ranks with the same place in the neighbouring copies of the student, which have other samples.
    """

    model: ProcessGroupCollection
    peers: Any


def create_groups(layout: TeacherLayout) -> TeacherGroups:
    """This rank's groups; every rank calls it at the same time."""
    tensor, pipeline, same_part, peers = (
        torch.distributed.new_subgroups_by_enumeration(ranks)[0]
        for ranks in (
            layout.tensor_groups(),
            layout.pipeline_groups(),
            layout.same_part_groups(),
            layout.peer_groups(),
        )
    )
    alone, _ = torch.distributed.new_subgroups(1)
    # Sequences are divided as the student's are: the attention uses the groups of the run.
    context = parallel_state.get_context_parallel_group()
    groups = ProcessGroupCollection(
        tp=tensor, pp=pipeline, cp=context, dp=same_part, dp_cp=same_part, tp_cp=tensor, mp=tensor,
        ep=alone, expt_tp=tensor, tp_ep=tensor, tp_ep_pp=tensor, expt_dp=same_part,
        # Nothing is shared between stages: each loads its own copy of a tied embedding.
        embd=None, pos_embd=None,
    )  # fmt: skip
    return TeacherGroups(groups, peers)
