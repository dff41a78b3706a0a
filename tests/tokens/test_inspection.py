from __future__ import annotations

import json

import numpy as np
import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.tokens.dataset.indexed import HEADER_BYTES, IndexedReader, IndexedWriter
from megatron_ipt.tokens.dataset.inspection import inspect, render
from megatron_ipt.tokens.dataset.verify import verify
from megatron_ipt.tokens.preprocess.preprocess import Options, SourceFiles, run


@pytest.fixture
def prefix(tmp_path, mistral_model):
    """Two sources of known sizes, interleaved."""
    sources = []
    for name, count, share in (("raw", 300, 0.75), ("augmented", 120, 0.25)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"text": f"{name} number {n} \x1b[31m</s> red"}) for n in range(count)))
        sources.append(SourceFiles(name, (str(path),), share))
    model = str(mistral_model)
    run(Options(tuple(sources), str(tmp_path / "x"), "Llama2Tokenizer", model, append_eod=True, prepend_bos=True))
    return tmp_path / "x_text_document"


def test_figures(prefix):
    found = inspect(prefix)
    reader = IndexedReader(prefix)
    assert (found["documents"], found["tokens"]) == (len(reader), reader.total_tokens)
    assert found["lengths"]["50"] == int(np.percentile(reader.lengths, 50, method="nearest"))
    assert found["lengths"]["0"] == reader.lengths.min()
    assert found["sources"]["raw"]["share"] == pytest.approx(0.75, abs=0.01)
    assert found["problems"] == []
    json.dumps(found)


def test_samples_show_where_documents_begin_and_end_and_nothing_a_terminal_acts_on(prefix):
    text = render(inspect(prefix, samples=2))
    assert text.count("⟦BOS⟧") == text.count("⟦EOD⟧") == 2
    assert "</s> red⟦EOD⟧" in text
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert "raw: 7" in text


def test_long_samples_are_cut_in_the_middle(prefix):
    text = render(inspect(prefix, samples=1, tokens_each=8))
    assert "tokens …]" in text
    assert text.count("⟦BOS⟧") == text.count("⟦EOD⟧") == 1


def test_local_shares_show_bad_mixing(tmp_path):
    with IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add(np.ones(100_000, np.uint16), np.full(1000, 100, np.int32))
    description = {"by_source": {"a": {}, "b": {}}}
    write_json(tmp_path / "x.json", description)
    for sources, worst in ((np.arange(1000) % 2, 0.02), (np.arange(1000) // 500, 0.5)):
        np.save(tmp_path / "x.sources.npy", sources.astype(np.uint8))
        found = inspect(tmp_path / "x", samples=0)["sources"]["a"]
        assert found["share"] == 0.5
        assert found["worst_window"] == pytest.approx(worst, abs=0.02)


def test_without_a_description_there_are_ids(tmp_path):
    with IndexedWriter(tmp_path / "x", np.int32) as writer:
        writer.add(np.array([5, 6, 7]), np.array([3], np.int32))
    assert "│ 5 6 7" in render(inspect(tmp_path / "x"))
    assert verify(tmp_path / "x")["problems"] == []


def test_an_empty_dataset(tmp_path):
    with IndexedWriter(tmp_path / "x", np.int32):
        pass
    assert "0 documents" in render(inspect(tmp_path / "x"))
    assert verify(tmp_path / "x", 10)["problems"] == []


def test_a_sound_dataset_is_checked_in_every_respect(prefix):
    found = verify(prefix)
    assert found["problems"] == []
    assert found["checked"] == ["sizes", "lengths", "offsets", "documents", "ids", "checksums"]


def change(path, position, value, dtype):
    content = bytearray(path.read_bytes())
    size = np.dtype(dtype).itemsize
    content[position : position + size] = np.array([value], dtype).tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("suffix", "position", "dtype", "value", "problem"),
    [
        ("bin", 40, np.uint16, 32_000, "token 20 is 32000; the vocabulary has 32000 ids"),
        ("bin", 40, np.uint16, 9, "x_text_document.bin: was changed after it was written"),
        ("idx", HEADER_BYTES + 4 * 5, np.int32, 999, "sequence 6 begins at byte"),
        ("idx", HEADER_BYTES + 4 * 5, np.int32, -3, "sequence 5 has length -3"),
        ("idx", -8, np.int64, 7, "the documents span sequences 0 to 7"),
        ("idx", -8 * 20, np.int64, 0, "out of order"),
    ],
)
def test_damage_is_found(prefix, suffix, position, dtype, value, problem):
    path = prefix.with_name(f"{prefix.name}.{suffix}")
    change(path, position % path.stat().st_size, value, dtype)
    assert problem in "\n".join(verify(prefix)["problems"])


def test_other_findings(prefix):
    write_json(f"{prefix}.json", read_json(f"{prefix}.json") | {"documents": 5, "vocab_size": 100})
    problems = "\n".join(verify(prefix)["problems"])
    assert "its description says 5" in problems
    assert "the vocabulary has 100 ids" in problems
    prefix.with_name(f"{prefix.name}.bin").write_bytes(b"")
    assert "0 bytes, the index expects" in "\n".join(verify(prefix)["problems"])
    with pytest.raises(InputError, match="the index expects"):
        inspect(prefix)
