from __future__ import annotations

import io

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from megatron.core.dist_checkpointing.mapping import ShardedTensor  # noqa: E402

from megatron_ipt.training.cpu.snapshot import share_memory  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_of_a_buffer_is_written_without_the_buffer_and_without_a_copy(dtype: torch.dtype) -> None:
    buffer = torch.arange(4096).to(dtype)
    shard = ShardedTensor.from_rank_offsets("weight", buffer[8:20].view(3, 4))
    state = {"model": {"weight": shard}}
    share_memory(state)
    assert shard.data.dtype is dtype and shard.data.tolist() == [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]
    assert shard.data.untyped_storage().size() == 12 * dtype.itemsize
    assert shard.data.data_ptr() == buffer[8:].data_ptr()
    stream = io.BytesIO()
    torch.save(shard.data, stream)
    assert stream.tell() < 4096
