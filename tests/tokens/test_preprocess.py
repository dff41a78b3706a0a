"""The tool on its own terms: inputs, sources, splits, shares of the work, and everything that may go wrong."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from megatron_ipt.errors import InputError, RecipeError, StageError, StorageError
from megatron_ipt.tokens.dataset.indexed import IndexedReader
from megatron_ipt.tokens.dataset.inspection import inspect
from megatron_ipt.tokens.dataset.verify import verify
from megatron_ipt.tokens.preprocess import preprocess
from megatron_ipt.tokens.preprocess.arguments import main
from megatron_ipt.tokens.preprocess.preprocess import Options, SourceFiles, run
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
TEXTS = [f"document {number} about the {'quick brown fox ' * (number % 9)}" for number in range(200)]


def write(path, records):
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "in.jsonl", [{"id": number, "text": text} for number, text in enumerate(TEXTS)])


@pytest.fixture
def options(tmp_path, corpus, mistral_model):
    return Options(
        (SourceFiles("input", (str(corpus),)),),
        str(tmp_path / "out"),
        "SentencePieceTokenizer",
        str(mistral_model),
        append_eod=True,
        piece_bytes=5000,
    )


def texts(options, target="text"):
    tokenizer = SentencePieceTokenizer.read(options.tokenizer_model)
    reader = IndexedReader(f"{options.output_prefix}_{target}_document")
    return [tokenizer.decode([i for i in reader[n].tolist() if i not in (1, 2)]) for n in range(len(reader))]


def of(options, *inputs, **values):
    return replace(options, sources=(SourceFiles("input", tuple(map(str, inputs))),), **values)


def leftovers(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith("out") or ".tmp" in path.name)


def test_documents_come_out_in_order(options):
    result = run(options)
    assert texts(options) == TEXTS
    assert result["documents"] == 200
    assert verify(f"{options.output_prefix}_text_document")["problems"] == []


def test_inputs_of_every_kind(options, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "many"
    folder.mkdir()
    content = b'{"text": "packed"}\n'
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(content))
    (folder / "c.txt").write_text("a plain text")
    write(folder / "d.json", [{"text": "called json"}])
    (folder / "e.json").write_text('[{"text": "in a list"},\n {"text": "twice"}]')
    table = pyarrow.table({"text": [f"row {i}" for i in range(10)], "other": list(range(10))})
    parquet.write_table(table, folder / "f.parquet", row_group_size=4)
    (tmp_path / "no_suffix").write_bytes(content)
    run(of(options, folder, tmp_path / "no_suffix", str(folder / "*.gz"), piece_bytes=1))
    rows = [f"row {i}" for i in range(10)]
    assert texts(options) == [
        "packed", "packed", "a plain text", "called json", "in a list", "twice", *rows, "packed", "packed"
    ]  # fmt: skip


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 10**6])
def test_where_the_input_is_cut_changes_nothing(options, tmp_path, piece_bytes):
    path = write(
        tmp_path / "odd.jsonl", ['{"text": "a"}', "", '  {"text": "b"}  ', '{"text": ""}', '{"text": "é"}', ""]
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    run(of(options, path, piece_bytes=piece_bytes))
    assert texts(options) == ["a", "b", "", "é"]


def test_sources_are_interleaved_by_share(options, tmp_path):
    few = write(tmp_path / "few.jsonl", [{"text": f"few {number} words here"} for number in range(60)])
    many = write(tmp_path / "many.jsonl", [{"text": f"many {number} words here"} for number in range(500)])
    sources = (SourceFiles("few", (str(few),), 0.2), SourceFiles("many", (str(many),), 0.8))
    result = run(replace(options, sources=sources))
    (entry,) = result["outputs"].values()
    assert entry["by_source"]["few"]["tokens"] / entry["tokens"] == pytest.approx(0.2, abs=0.01)
    assert entry["by_source"]["many"]["left_out_documents"] == 500 - entry["by_source"]["many"]["documents"] > 0
    is_few = [text.startswith("few") for text in texts(options)]
    assert {sum(is_few[i : i + 10]) for i in range(0, len(is_few) - 9, 10)} <= {1, 2, 3}
    found = inspect(f"{options.output_prefix}_text_document")
    assert found["sources"]["few"]["worst_window"] < 0.05
    assert verify(f"{options.output_prefix}_text_document")["problems"] == []


def test_sources_with_documents_of_no_and_of_several_sequences(options, tmp_path):
    odd = write(tmp_path / "odd.jsonl", [{"text": value} for value in ("", ["one", "two"], [], "three")])
    sources = (SourceFiles("odd", (str(odd),)), SourceFiles("plain", (str(tmp_path / "in.jsonl"),)))
    run(replace(options, sources=sources))
    prefix = f"{options.output_prefix}_text_document"
    reader = IndexedReader(prefix)
    assert sorted(reader.counts(0, len(reader)).tolist()) == [0, 0, *[1] * 201, 2]
    assert verify(prefix)["problems"] == []
    assert sorted(texts(options)) == sorted(["", "", "one two", "three", *TEXTS])


def test_the_split_depends_on_the_document_alone(options, tmp_path):
    split = replace(options, split=(0.8, 0.1, 0.1))
    run(split)
    first = {name: texts(options, f"{name}_text") for name in ("train", "valid", "test")}
    assert sorted(text for part in first.values() for text in part) == sorted(TEXTS)
    assert min(map(len, first.values())) > 5
    lines = (tmp_path / "in.jsonl").read_text().splitlines()
    shuffled = write(tmp_path / "other.jsonl", [*reversed(lines), '{"id": "new", "text": "new"}'])
    run(of(split, shuffled, output_prefix=str(tmp_path / "again"), partitions=2))
    for name, before in first.items():
        after = texts(replace(options, output_prefix=str(tmp_path / "again")), f"{name}_text")
        assert sorted(set(after) - {"new"}) == sorted(before)


def test_a_split_that_stays_empty_is_a_dataset_without_documents(options, tmp_path):
    one = write(tmp_path / "one.jsonl", [{"text": "alone"}])
    run(of(options, one, split=(1.0, 0.0, 0.0)))
    assert verify(f"{options.output_prefix}_valid_text_document")["problems"] == []


def test_bos_is_put_once(options, mistral_folder):
    run(replace(options, prepend_bos=True))
    assert IndexedReader(f"{options.output_prefix}_text_document")[0].tolist()[:2] != [1, 1]
    for values in ({"tokenizer_type": "Llama2Tokenizer", "legacy_tokenizer": True},
                   {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": str(mistral_folder)}):  # fmt: skip
        run(replace(options, prepend_bos=True, **values), overwrite=True)
        assert IndexedReader(f"{options.output_prefix}_text_document")[0].tolist().count(1) == 1


def test_shares_of_the_work(options):
    options = replace(options, piece_bytes=2000)
    for index in (2, 0):
        assert run(options, shard=(index, 3))["parts"] > 1
    assert not Path(f"{options.output_prefix}_text_document.idx").exists()
    encoded = {path.name: path.stat().st_mtime_ns for path in Path(f"{options.output_prefix}.parts").glob("*.bin")}
    assert encoded
    run(options, shard=(1, 3))
    parts = Path(f"{options.output_prefix}.parts")
    assert all((parts / name).stat().st_mtime_ns == time for name, time in encoded.items())
    run(options)
    assert texts(options) == TEXTS
    assert not parts.exists()


def test_a_share_that_does_not_exist(options):
    with pytest.raises(RecipeError, match="3/3"):
        run(options, shard=(3, 3))


def test_unusable_records_are_counted_with_their_line(options, tmp_path):
    good = [json.dumps({"text": text}) for text in TEXTS]
    bad = {
        10: '{"text": ',
        30: "[1, 2]",
        50: '{"content": "x"}',
        70: '{"text": null}',
        90: '{"text": 5}',
        110: '{"text": "half \\ud800 pair"}',
        150: '{"text": ["a", null]}',
    }
    lines = [bad.get(number, line).encode() for number, line in enumerate(good, 1)]
    lines[129] = b'{"text": "broken \xff utf-8"}'
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(lines))
    result = run(of(options, path, workers=2))
    rejects = [json.loads(line) for line in Path(f"{options.output_prefix}_rejects.jsonl").read_text().splitlines()]
    assert {record["line"]: record["reason"] for record in rejects} == {
        10: "invalid JSON", 30: "not an object", 50: "missing text", 70: "missing text", 90: "missing text",
        110: "invalid JSON", 130: "not UTF-8", 150: "missing text",
    }  # fmt: skip
    assert "null" in rejects[3]["detail"]
    assert sum(result["rejected"].values()) == 8
    assert texts(options) == [text for number, text in enumerate(TEXTS, 1) if number not in {*bad, 130}]


def test_too_much_that_is_unusable_is_an_error_and_a_higher_limit_completes(options, tmp_path):
    path = write(tmp_path / "bad.jsonl", ['{"no": 1}', *({"text": text} for text in TEXTS[:9])])
    with pytest.raises(InputError, match=r"1 of 10 records were rejected \(missing text: 1\)"):
        run(of(options, path))
    assert not Path(f"{options.output_prefix}_text_document.idx").exists()
    run(of(options, path, maximum_reject_share=0.2))
    assert texts(options) == TEXTS[:9]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_truncated_file_is_an_error_until_it_is_mended(options, tmp_path, corpus, pack):
    path = tmp_path / f"cut.jsonl.{'gz' if pack is gzip.compress else 'zst'}"
    whole = pack(corpus.read_bytes())
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"cut\.jsonl.*damaged or truncated after line"):
        run(of(options, path))
    assert not list(tmp_path.glob("out_*"))
    path.write_bytes(whole)
    run(of(options, path))
    assert texts(options) == TEXTS


def test_a_damaged_parquet_file(options, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match=r"x\.parquet: not readable as Parquet"):
        run(of(options, tmp_path / "x.parquet"))


def test_outputs_beside_the_inputs_are_not_read(options, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["{", *({"text": text} for text in TEXTS)]
    write(folder / "in.jsonl", lines)
    inside = of(options, folder, output_prefix=str(folder / "out"))
    run(inside, shard=(0, 2))
    run(inside)
    assert texts(inside) == TEXTS
    run(inside, overwrite=True)
    assert texts(inside) == TEXTS


def test_what_a_killed_run_left_is_removed(options, tmp_path):
    left = [tmp_path / ".out_text_document.bin.123.tmp", tmp_path / "out.parts" / ".000-000001-0.bin.123.tmp"]
    left[1].parent.mkdir()
    for path in left:
        path.touch()
    run(options)
    assert not [path for path in left if path.exists()]


def test_empty_and_missing_inputs(options, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="every file is empty"):
        run(of(options, tmp_path / "empty.jsonl"))
    with pytest.raises(InputError, match=r"nowhere\.jsonl: no such file"):
        run(of(options, tmp_path / "nowhere.jsonl"))


def test_outputs_that_exist_are_kept(options):
    run(options)
    before = Path(f"{options.output_prefix}_text_document.bin").read_bytes()
    with pytest.raises(StageError, match=r"out_text_document\.bin: exists already; .*--overwrite"):
        run(replace(options, append_eod=False))
    assert Path(f"{options.output_prefix}_text_document.bin").read_bytes() == before
    run(replace(options, append_eod=False), overwrite=True)
    assert Path(f"{options.output_prefix}_text_document.bin").read_bytes() != before


def test_a_vocabulary_that_does_not_fit(options):
    with pytest.raises(InputError, match=r"--vocab-size 1000: .* ids up to 31999"):
        run(replace(options, vocab_size=1000))
    big = preprocess.conventions(options.tokenizer_type, options.tokenizer_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "conventions", lambda *_: replace(big, vocab_size=70_000))
        with pytest.raises(InputError, match=r"--dtype: uint16 holds ids below 65,536, .* up to 69,999; use int32"):
            run(replace(options, dtype="uint16"))


def test_what_was_encoded_with_other_settings_is_not_taken(options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(replace(options, append_eod=False))
    run(options)
    assert IndexedReader(f"{options.output_prefix}_text_document")[0].tolist()[-1] == 2
    assert texts(options) == TEXTS


def test_an_interrupted_run_repeats_one_part(options, monkeypatch):
    encoded = []
    original = preprocess.encode_items

    def interrupt_at_third(*arguments):
        encoded.append(1)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(preprocess, "encode_items", interrupt_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(options)
    run(options)
    parts = -(-(Path(options.sources[0].inputs[0]).stat().st_size) // options.piece_bytes)
    assert len(encoded) == parts + 1
    assert texts(options) == TEXTS


def test_a_worker_that_is_killed(options, tmp_path):
    path = write(tmp_path / "large.jsonl", [{"text": text * 30} for text in TEXTS * 20])
    arguments = [
        "--input", str(path), "--output-prefix", options.output_prefix, "--workers", "2", "--tokenizer-type",
        options.tokenizer_type, "--tokenizer-model", options.tokenizer_model, "--engine", "sentencepiece",
    ]  # fmt: skip
    program = (
        "import sys; from megatron_ipt.tokens.preprocess import pieces; pieces.LEAST_PIECE_BYTES = 1 << 19; "
        "from megatron_ipt.tokens.preprocess.arguments import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    parts = Path(f"{options.output_prefix}.parts")
    while not list(parts.glob("*.done.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(workers[0], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == StageError.exit_status
    assert "a worker process died" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("out_text_document*"))
    assert main(["--input", str(path), *arguments[2:]]) == 0
    assert verify(f"{options.output_prefix}_text_document")["problems"] == []
    assert IndexedReader(f"{options.output_prefix}_text_document").document_index[-1] == 4000


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("room", ["tokenizer", "parts", "joined"])
def test_a_full_disk(options, tmp_path, room):
    """The disk is half as large as it takes to store ``room`` after all that comes before."""
    path = write(tmp_path / "large.jsonl", [{"text": text * 4} for text in TEXTS * 20])
    options = of(options, path, piece_bytes=400_000, engine="sentencepiece")
    run(options, shard=(0, 1))
    parts = Path(f"{options.output_prefix}.parts")
    sizes = {
        "tokenizer": sum(file.stat().st_size for file in parts.glob("tokenizer-*/*")),
        "parts": sum(file.stat().st_size for file in parts.glob("*.*")),
    }
    sizes["joined"] = sizes["parts"]
    before = sum(sizes[name] for name in list(sizes)[: list(sizes).index(room)])
    full = tmp_path / "full"
    full.mkdir()
    size = before + sizes[room] // 2
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", full], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        small = replace(options, output_prefix=str(full / "out"))
        with pytest.raises(StorageError, match="No space left on device"):
            run(small)
        assert not list(full.glob("out_text_document*"))
        assert bool(list((full / "out.parts").glob("*.done.json"))) == (room != "tokenizer")
        subprocess.run(["mount", "-o", "remount,size=64m", full], check=True)
        run(small)
        assert verify(full / "out_text_document")["problems"] == []
        assert len(IndexedReader(full / "out_text_document")) == 4000
    finally:
        # Lazily: memory maps of what was read may still be open.
        subprocess.run(["umount", "-l", full], check=True)


def test_the_command_line(tmp_path, corpus, mistral_model, capsys):
    """Megatron-LM's command, as its users have it in their scripts."""
    arguments = [
        "--input", corpus, "--output-prefix", tmp_path / "cli", "--json-keys", "text", "--tokenizer-type",
        "SentencePieceTokenizer", "--tokenizer-model", mistral_model, "--vocab-size", 32000, "--append-eod",
        "--workers", 1, "--partitions", 1, "--log-interval", 1000,
    ]  # fmt: skip
    finished = subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=True)
    assert "200 documents" in finished.stdout
    assert verify(tmp_path / "cli_text_document")["problems"] == []
    assert main([str(argument) for argument in arguments]) == StageError.exit_status
    assert "exists" in capsys.readouterr().err


def test_start_up_brings_no_heavy_library():
    program = (
        "import sys; import megatron_ipt.tokens.preprocess.preprocess; "
        "print([name for name in ('torch', 'transformers', 'omegaconf', 'pyarrow', 'awkward') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --input, --source and --sources"),
        (["--source", "raw"], "--source raw: expected NAME:SHARE:PATH"),
        (["--source", "a:0.5:x", "--source", "b:0.6:y"], "add up to 1.1"),
        (["--source", "a:0.5:x", "--source", "b:y"], "a share to every source or to none"),
        (["--input", "x", "--split-by-hash", "a,b"], "--split-by-hash a,b"),
        (["--input", "x", "--shard", "2"], "--shard 2: expected i/N"),
        (["--input", "x", "--workers", "0"], "--workers 0"),
    ],
)
def test_a_command_line_that_cannot_be(tmp_path, mistral_model, capsys, arguments, message):
    common = ["--output-prefix", str(tmp_path / "o"), "--tokenizer-type", "SentencePieceTokenizer"]
    status = main([*arguments, *common, "--tokenizer-model", str(mistral_model)])
    assert status == RecipeError.exit_status
    assert message in capsys.readouterr().err


def test_sources_from_a_file(tmp_path, corpus, mistral_model, capsys):
    sources = tmp_path / "sources.yaml"
    sources.write_text(f"one: {{inputs: [{corpus}], share: 0.5, repeat: 2}}\ntwo: {{inputs: {corpus}, share: 0.5}}\n")
    common = ["--output-prefix", str(tmp_path / "o"), "--tokenizer-type", "Llama2Tokenizer", "--json"]
    assert main(["--sources", str(sources), *common, "--tokenizer-model", str(mistral_model)]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["outputs"].values()
    assert entry["by_source"]["one"]["left_out_documents"] == pytest.approx(200, abs=2)


def test_tokenizers_that_cannot_be_used(options, tmp_path):
    with pytest.raises(RecipeError, match="--tokenizer-type WordPiece: not one of SentencePieceTokenizer"):
        run(replace(options, tokenizer_type="WordPiece"))
    with pytest.raises(InputError, match="no such folder; nothing is downloaded"):
        run(replace(options, tokenizer_type="HuggingFaceTokenizer", tokenizer_model="gpt2"))
    (tmp_path / "x.model").write_text("no model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        run(replace(options, tokenizer_model=str(tmp_path / "x.model")))
