"""Counts the tokens of each source that a run has trained on.

A mixed dataset records the source of every document (``PREFIX.sources.npy``). A sample is a window over consecutive
documents, so its tokens are counted by splitting the window at document boundaries. All samples of a step are counted
together, in a few numpy calls.
"""

from __future__ import annotations

from typing import Any

import numpy
import numpy.typing


def tokens_of_windows(
    dataset: Any, samples: numpy.typing.NDArray[numpy.int64], source: numpy.typing.NDArray[numpy.uint8], sources: int
) -> numpy.typing.NDArray[numpy.int64]:
    """Tokens by source in samples of a Megatron-Core ``GPTDataset``.

    Args:
        samples: indices of samples.
        source: source of every document, [documents].
        sources: number of sources.

    Returns:
        [sources]; the sum is ``seq_length`` times the number of samples.
    """
    if not len(samples):
        return numpy.zeros(sources, numpy.int64)
    windows = dataset.shuffle_index[samples]
    first, begin = dataset.sample_index[windows].astype(numpy.int64).T
    last, end = dataset.sample_index[windows + 1].astype(numpy.int64).T
    pieces = last - first + 1
    starts = numpy.cumsum(pieces) - pieces
    place = numpy.repeat(first - starts, pieces) + numpy.arange(pieces.sum())
    # The last window may end with the last document, whose end is the start of one that does not exist.
    documents = dataset.document_index[numpy.minimum(place, len(dataset.document_index) - 1)]
    stop = dataset.dataset.sequence_lengths[documents].astype(numpy.int64)
    stop[starts + pieces - 1] = end
    stop[starts] -= begin
    return numpy.bincount(source[documents], weights=stop, minlength=sources).astype(numpy.int64)
