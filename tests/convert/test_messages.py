from __future__ import annotations

from megatron_ipt.convert.messages import listed


def test_long_lists_are_cut() -> None:
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"
    names = [f"t{number}" for number in range(15)]
    assert listed(names) == f"{', '.join(names[:12])} and 3 more tensors"
