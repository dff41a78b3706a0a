from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, strategies as st

from megatron_ipt.training.data.tokens_by_source import tokens_of_windows


def dataset_of(lengths: list[int], order: list[int], seq_length: int, shuffle: np.random.Generator) -> SimpleNamespace:
    """The parts of a GPTDataset that are read: windows of ``seq_length`` plus one token, each starting where the one
    before it ends."""
    ends = np.cumsum([lengths[document] for document in order])
    samples = (ends[-1] - 1) // seq_length
    borders = []
    for border in np.arange(samples + 1) * seq_length:
        place = int(np.searchsorted(ends, border, side="right"))
        borders.append((place, border - (ends[place - 1] if place else 0)))
    return SimpleNamespace(
        dataset=SimpleNamespace(sequence_lengths=np.array(lengths, np.int32)),
        document_index=np.array(order, np.int32),
        sample_index=np.array(borders, np.int32),
        shuffle_index=shuffle.permutation(samples),
    )


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 2**16), st.integers(1, 3)
)
def test_agrees_with_counting_token_by_token(lengths: list[int], seq_length: int, seed: int, sources: int) -> None:
    generator = np.random.default_rng(seed)
    if sum(lengths) <= seq_length:
        return
    order = generator.permutation(len(lengths)).tolist()
    source = generator.integers(0, sources, len(lengths)).astype(np.uint8)
    dataset = dataset_of(lengths, order, seq_length, generator)
    samples = generator.permutation(len(dataset.shuffle_index))[:3]
    stream = np.concatenate([[source[document]] * lengths[document] for document in order])
    expected = np.zeros(sources, np.int64)
    for sample in samples:
        start = dataset.shuffle_index[sample] * seq_length
        expected += np.bincount(stream[start : start + seq_length], minlength=sources)
    assert tokens_of_windows(dataset, samples, source, sources).tolist() == expected.tolist()
