"""The search against a plain one through everything, in numpy and double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_ipt.composition import search
from megatron_ipt.composition.config import SearchConfig
from megatron_ipt.composition.search import NONE, RANKS, Index
from megatron_ipt.errors import InputError

pytest.importorskip("faiss")


def plain(vectors, documents, config: SearchConfig, query: int, k: int) -> list[int]:  # type: ignore[no-untyped-def]
    wide = vectors.astype(np.float64)
    units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    near = wide @ wide[query] if config.metric == "dot" else -((wide - wide[query]) ** 2).sum(1)
    kept: list[int] = []
    for number in sorted(range(len(wide)), key=lambda number: (-near[number], number)):
        if number == query or units[number] @ units[query] >= config.near_duplicate:
            continue
        if not config.same_document and documents[number] == documents[query]:
            continue
        if any(units[number] @ units[other] >= config.near_duplicate for other in kept):
            continue
        kept.append(number)
        if len(kept) == k:
            break
    return kept + [NONE] * (k - len(kept))


def clustered(count: int, seed: int, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in documents of seven near each other, some of them copies, so that many are excluded."""
    draws = np.random.default_rng(seed)
    documents = np.arange(count) // 7
    vectors = draws.normal(size=(documents.max() + 1, 16))[documents] + 0.4 * draws.normal(size=(count, 16))
    vectors[5::31] = vectors[4::31][: len(vectors[5::31])]
    if scaled:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), documents


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("same_document", [False, True])
@pytest.mark.parametrize("scaled", [True, False])
def test_neighbours_are_those_of_a_plain_search(metric: str, same_document: bool, scaled: bool) -> None:
    vectors, documents = clustered(700, 3, scaled)
    config = SearchConfig(metric=metric, candidates=12, same_document=same_document)
    found = Index(vectors, documents, config).search(np.arange(700), 12)
    for query in range(0, 700, 3):
        assert found.numbers[query].tolist() == plain(vectors, documents, config, query, 12), query
    finite = np.isfinite(found.nearness)
    assert (finite == (found.numbers != NONE)).all()
    assert (np.diff(found.nearness, axis=1)[finite[:, 1:]] <= 0).all()


def test_neither_batches_nor_order_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, documents = clustered(900, 5, True)
    config = SearchConfig(candidates=8)
    index = Index(vectors, documents, config)
    queries = np.arange(900)
    all_at_once = index.search(queries, 8)
    shuffled = np.random.default_rng(1).permutation(900)
    again = Index(vectors, documents, config).search(queries[shuffled], 8)
    assert (again.numbers == all_at_once.numbers[shuffled]).all()
    assert (again.nearness == all_at_once.nearness[shuffled]).all()
    monkeypatch.setattr(search, "_MOST_FETCHED", 700)
    assert (index.search(queries, 8).numbers == all_at_once.numbers).all()
    alone = index.search(queries[17:18], 8)
    assert (alone.nearness == all_at_once.nearness[17]).all()


def test_few_neighbours_where_all_else_is_excluded() -> None:
    """Sixty paragraphs, one other document: what is left is that document's, however far."""
    draws = np.random.default_rng(2)
    vectors = draws.normal(size=(60, 8)).astype(np.float32)
    documents = np.array([0] * 57 + [1] * 3)
    found = Index(vectors, documents, SearchConfig(candidates=10)).search(np.arange(60), 10)
    assert sorted(found.numbers[0][:3].tolist()) == [57, 58, 59] and (found.numbers[0][3:] == NONE).all()
    assert (found.numbers[58] < 57).all()


def test_dot_product_and_distance_differ() -> None:
    """q (1, 0), a (3, 0), b (1, .2): a is nearest by the dot product, b by distance."""
    vectors = np.array([[1, 0], [3, 0], [1, 0.2]], np.float32)
    for metric, expected in (("dot", [1, 2]), ("l2", [2, 1])):
        config = SearchConfig(metric=metric, candidates=2, near_duplicate=2.0)
        found = Index(vectors, np.arange(3), config).search(np.array([0]), 2)
        assert found.numbers.tolist() == [expected]


def test_equal_neighbours_come_by_number() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [0.6, 0.8]], np.float32)
    config = SearchConfig(candidates=3, near_duplicate=2.0)
    assert Index(vectors, np.arange(4), config).search(np.array([0]), 3).numbers.tolist() == [[1, 2, 3]]
    # Of the copies 1 and 3, the first stays.
    config = SearchConfig(candidates=3)
    assert Index(vectors, np.arange(4), config).search(np.array([0]), 3).numbers.tolist() == [[1, 2, NONE]]


def test_what_plain_neighbours_are() -> None:
    """Of the two nearest of each, before anything is excluded: documents of two, 1 and 2 copies of each other."""
    vectors = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.8, 0.6, 0], [0, 0, 1]], np.float32)
    found = Index(vectors, np.array([0, 0, 1, 1]), SearchConfig(candidates=1)).search(np.arange(4), 1)
    # Nearest: 0 → 1 (own), 1 → 2 (copy), 2 → 1 (copy), 3 → 0 (neither; 0 and 1 tie with 2).
    assert found.same_document[0] == 1 and found.near_duplicates[0] == 2
    assert len(found.same_document) == RANKS


def test_an_approximate_index_finds_most_and_is_the_same_again(tmp_path: Path) -> None:
    vectors, documents = clustered(4000, 7, True)
    exact = Index(vectors, documents, SearchConfig(candidates=10)).search(np.arange(0, 4000, 9), 10)
    config = SearchConfig(candidates=10, exact_up_to=1000, lists=32, probes=12)
    saved = tmp_path / "index.faiss"
    one = Index(vectors, documents, config, saved).search(np.arange(0, 4000, 9), 10)
    again = Index(vectors, documents, config, saved).search(np.arange(0, 4000, 9), 10)
    assert saved.is_file() and (one.numbers == again.numbers).all()
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(one.numbers.tolist(), exact.numbers.tolist())]
    assert 0.8 < np.mean(hits) <= 1
    # All cells: the same as exact.
    config.probes = 32
    assert (Index(vectors, documents, config, saved).search(np.arange(0, 4000, 9), 10).numbers == exact.numbers).all()


def test_more_candidates_than_paragraphs() -> None:
    with pytest.raises(InputError, match=r"composition\.search\.candidates: 5 .* only 5 different"):
        Index(np.eye(5, dtype=np.float32), np.arange(5), SearchConfig(candidates=5))
