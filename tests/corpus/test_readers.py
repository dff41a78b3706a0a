from __future__ import annotations

import codecs
import gzip
import json
import re

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from megatron_ipt.corpus.inputs import InputFile
from megatron_ipt.corpus.options import ReadOptions
from megatron_ipt.corpus.readers import read_file
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.rejects import Rejects


@pytest.fixture
def read(tmp_path):
    """Writes a file, reads it, and gives the records as tuples and the reasons of rejects."""

    def read_it(name, content, **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        options = ReadOptions(**settings)
        with Rejects(tmp_path / "rejects.jsonl") as rejects:
            records = [tuple(record) for record in read_file(InputFile(str(path), name), options, rejects)]
        return records, dict(rejects.reasons)

    return read_it


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def read(file, config, rejects):\n    yield {'text': 'one'}", "yielded {'text': 'one'}; expected Record"),
        ("def read(file, config, rejects):\n    yield Record(1, 'one', '')", "yielded Record(id=1, "),
        ("def read(file, config, rejects):\n    yield Record('1', 'one', None)", "title=None"),
        ("def read(file, config, rejects):\n    return None", "returned None; expected records"),
        ("def read(file):\n    yield", "is not a function of (file, options, rejects): too many positional"),
        ("read = 'text'", "is not a function of (file, options, rejects): 'text' is not a callable"),
    ],
)
def test_a_custom_reader_is_held_to_its_interface(read, tmp_path, code, message):
    path = tmp_path / f"reader_{len(message)}_{len(code)}.py"
    path.write_text(f"from megatron_ipt.corpus.readers import Record\n{code}\n")
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        read("a.tsv", "one", reader=f"{path}:read", section="tokens.sources.x")
    assert str(caught.value).startswith(f"tokens.sources.x.reader: {path}:read ")


def test_a_custom_reader_may_give_title_and_domain_or_not(read, tmp_path):
    path = tmp_path / "custom_reader.py"
    path.write_text(
        "from megatron_ipt.corpus.readers import Record\n"
        "def read(file, options, rejects):\n"
        "    yield Record('1', 'one')\n"
        "    yield Record('2', 'two', 'T')\n"
        "    yield Record('3', options.text_key, 'T', 'law')\n"
    )
    records, _ = read("a.tsv", "", reader=f"{path}:read", text_key="body")
    assert records == [("1", "one", "", ""), ("2", "two", "T", ""), ("3", "body", "T", "law")]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)])
def test_json_lines(read, suffix, pack):
    content = b'{"text":"one"}\n\n{"id":"x","text":"two","title":" T "}\n{"id":7,"text":"three"}'
    records, reasons = read(f"a.jsonl{suffix}", pack(content))
    name = f"a.jsonl{suffix}"
    assert records == [(f"{name}:1", "one", "", ""), ("x", "two", "T", ""), ("7", "three", "", "")]
    assert reasons == {}


def test_unusable_lines_are_rejected_with_a_reason(read):
    lines = [
        b'{"text":"good"}', b'{"text":', b"[1]", b'{"body":"x"}', b'{"text":null}', b'{"text":5}',
        b'{"text":"caf\xe9"}', b'{"text":"\\ud800"}',
    ]  # fmt: skip
    records, reasons = read("a.jsonl", b"\n".join(lines))
    assert [record[1] for record in records] == ["good"]
    assert reasons == {"invalid JSON": 3, "not an object": 1, "missing text": 3}


def test_the_keys_can_be_named(read):
    records, _ = read("a.jsonl", '{"key":"k","body":"b","head":"h"}', text_key="body", id_key="key", title_key="head")
    assert records == [("k", "b", "h", "")]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_a_byte_order_mark_is_no_content(read, suffix, pack):
    mark = codecs.BOM_UTF8
    lines = mark + b'{"id":"a","text":"one"}\n{"id":"b","text":"two"}\n'
    assert read(f"a.jsonl{suffix}", pack(lines)) == ([("a", "one", "", ""), ("b", "two", "", "")], {})
    assert read(f"a.json{suffix}", pack(lines)) == ([("a", "one", "", ""), ("b", "two", "", "")], {})
    assert read(f"b.json{suffix}", pack(mark + b'[{"id":"a","text":"one"}]')) == ([("a", "one", "", "")], {})
    assert read(f"a.txt{suffix}", pack(mark + b"# A\none")) == ([(f"a.txt{suffix}:1", "# A\none", "A", "")], {})
    # Only at the beginning of a file; elsewhere it is a character like any other.
    assert read(f"c.txt{suffix}", pack(b"a" + mark))[0][0][1] == "a\ufeff"


def test_domains_of_records(read, tmp_path):
    lines = [
        {"text": "one", "kind": "law"}, {"text": "two", "kind": 7}, {"text": "three", "kind": " "}, {"text": "four"},
        {"text": "five", "kind": ["law"]},
    ]  # fmt: skip
    content = "\n".join(map(json.dumps, lines))
    assert [record[3] for record in read("a.jsonl", content, domain_key="kind")[0]] == ["law", "7", "", "", ""]
    assert [record[3] for record in read("a.jsonl", content)[0]] == [""] * 5
    table = pyarrow.table({"text": ["one", "two"], "kind": ["law", None]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    assert [record[3] for record in read("t.parquet", content, domain_key="kind")[0]] == ["law", ""]
    assert [record[3] for record in read("t.parquet", content, domain_key="text")[0]] == ["one", "two"]


def test_a_json_file_may_hold_a_list_or_lines(read):
    objects = [{"text": "one"}, {"text": "two"}]
    assert [r[1] for r in read("a.json", json.dumps(objects, indent=1))[0]] == ["one", "two"]
    assert [r[1] for r in read("a.json", "\n".join(map(json.dumps, objects)))[0]] == ["one", "two"]
    assert [r[1] for r in read("a.json", json.dumps(objects[0]))[0]] == ["one"]


def test_squad_contexts(read):
    squad = {"data": [{"title": "Super_Bowl_50", "paragraphs": [{"context": "c1", "qas": []}, {"context": ""}]}]}
    assert read("s.json", json.dumps(squad)) == ([("s.json:1", "c1", "Super Bowl 50", "")], {"missing text": 1})


def test_damaged_squad_articles_are_rejected(read):
    squad = {"data": [3, {"paragraphs": "x"}, {"title": 5, "paragraphs": [None, {"context": 1}, {"context": "c"}]}]}
    assert read("s.json", json.dumps(squad)) == (
        [("s.json:3", "c", "5", "")], {"not an article": 2, "missing text": 2}
    )  # fmt: skip


def test_a_json_file_that_is_neither_is_refused(read):
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read("a.json", '[{"text": "x"')
    with pytest.raises(InputError, match="expected a list of records"):
        read("a.json", "3")
    with pytest.raises(InputError, match=r"a\.json\.gz: damaged or truncated"):
        read("a.json.gz", gzip.compress(json.dumps([{"text": "x" * 99}] * 9, indent=1).encode())[:-20])


def test_parquet(read, tmp_path):
    table = pyarrow.table({"id": ["a", None], "text": ["one", None], "other": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    records, reasons = read("t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert (records, reasons) == ([("a", "one", "", "")], {"missing text": 1})


def test_parquet_without_the_column_or_damaged(read, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(InputError, match=r"no column 'text' \(corpus\.text_key\); .*\['body'\]"):
        read("t.parquet", content)
    with pytest.raises(InputError, match=r"no column 'text' \(evaluation\.read\.text_key\)"):
        read("t.parquet", content, section="evaluation.read")
    with pytest.raises(InputError, match="not readable as Parquet"):
        read("t.parquet", content[:-20])


def test_a_short_text_file_is_one_document(read):
    assert read("a.txt", "One.\r\n\r\nTwo.\n")[0] == [("a.txt:1", "One.\n\nTwo.", "", "")]


def test_headings_divide_a_text_file(read):
    wiki = "preface\n = Lobster = \n \n It swims . \n = = Diet = = \n It eats . \n = Crab = \n It walks . \n"
    assert read("a.txt", wiki)[0] == [
        ("a.txt:1", "preface", "", ""),
        ("a.txt:2", " = Lobster = \n \n It swims . \n = = Diet = = \n It eats . ", "Lobster", ""),
        ("a.txt:7", " = Crab = \n It walks . ", "Crab", ""),
    ]
    assert [r[2] for r in read("a.md", "# One\ntext\n## Sub\nmore\n# Two\ntext\n")[0]] == ["One", "Two"]


def test_passages_are_whole_paragraphs(read):
    text = "a" * 30 + "\n\n" + "b" * 5 + "\n\n" + "c" * 30
    records, _ = read("a.txt", text, text_documents="passage", passage_characters=20)
    assert [record[1] for record in records] == ["a" * 30, "b" * 5 + "\n\n" + "c" * 30]


def test_a_large_text_file_without_headings_becomes_passages(read):
    paragraph = "word " * 100
    records, _ = read("a.txt", "\n\n".join([paragraph] * 200))
    assert 40 < len(records) < 60
    assert sum(record[1].count("word") for record in records) == 100 * 200


def test_only_the_part_that_is_not_utf8_is_rejected(read):
    records, reasons = read("a.txt", b"# A\ngood\n# B\ncaf\xe9\n# C\ngood\n")
    assert [record[2] for record in records] == ["A", "C"]
    assert reasons == {"not UTF-8": 1}
