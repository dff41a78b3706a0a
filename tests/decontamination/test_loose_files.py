"""Files outside of a run: what is kept is as it was, what goes is named; and the command with its exit statuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.decontamination.config import QUESTION_KEYS
from megatron_ipt.decontamination.loose_files import decontaminate_files
from megatron_ipt.errors import InputError, StorageError, UserError
from tests.decontamination.conftest import HIVE, SIZE, write_tests


def clean(tests: Path, *files: Path, output: Path | None = None, **options: Any) -> dict[str, Any]:
    return decontaminate_files([str(file) for file in files], [str(tests)], output, QUESTION_KEYS, 13, **options)


def test_json_lines_are_written_as_they_were(tests_file: Path, tmp_path: Path) -> None:
    kept = [
        '{"b": 1.50,  "text":"B\\u00e9es.", "big": 12345678901234567890123}',
        '{"question": "Who?", "x": [1, {"y": "Wax."}]}',
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([kept[0], json.dumps({"chat": [{"content": f"He: {SIZE}"}]}), "", kept[1]]) + "\n")
    result = clean(tests_file, data, output=tmp_path / "clean")
    assert (tmp_path / "clean/data.jsonl").read_text() == "\n".join(kept) + "\n"
    assert result["files"] == {str(data): {"records": 3, "removed": 1}}
    (row,) = map(json.loads, (tmp_path / "clean/rejects.jsonl").read_text().splitlines())
    assert row["detail"] == f"{data}:2: content has words of question 2 of {tests_file}"
    assert (row["line"], row["words"], row["question"]) == (2, "what is the size of a hive", 2)
    assert result["questions"] == [{"test_set": str(tests_file), "number": 2, "question": SIZE, "found": 1}]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_paragraphs_of_text(tests_file: Path, tmp_path: Path, suffix: str) -> None:
    data = tmp_path / f"data.txt{suffix}"
    words = HIVE.split()
    # Over the lines of a paragraph, not from one paragraph to the next.
    parts = [
        "\n\nFirst.\n",
        f"{' '.join(words[:8])}\n{' '.join(words[8:])}\n\n\n",
        " ".join(words[:9]),
        "\n\n",
        " ".join(words[9:]),
    ]
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    unpack = {
        "": bytes,
        ".gz": gzip.decompress,
        ".zst": lambda content: zstandard.ZstdDecompressor().decompressobj().decompress(content),
    }[suffix]
    data.write_bytes(pack("\n".join(parts[:2]).encode() + "".join(parts[2:]).encode()))
    result = clean(tests_file, data, output=tmp_path / "clean")
    assert (
        unpack((tmp_path / "clean" / data.name).read_bytes()).decode() == "\n\nFirst.\n\n" + "".join(parts[2:]) + "\n"
    )
    assert list(result["files"].values()) == [{"records": 5, "removed": 1}]


def test_rows_of_parquet(tests_file: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.parquet"
    texts = [SIZE if number % 7 == 0 else f"Bees {number}." for number in range(3000)]
    table = pyarrow.table({"id": list(range(3000)), "pairs": [[{"q": text, "n": 1.5}] for text in texts]})
    pyarrow.parquet.write_table(table, data)
    result = clean(tests_file, data, output=tmp_path / "clean")
    written = pyarrow.parquet.read_table(tmp_path / "clean/data.parquet")
    assert written.schema == table.schema
    assert written.to_pylist() == [row for row in table.to_pylist() if row["id"] % 7]
    assert result["files"][str(data)] == {"records": 3000, "removed": 429}


def test_without_output_nothing_is_written(tests_file: Path, tmp_path: Path) -> None:
    data = write_tests(tmp_path / "data.jsonl", SIZE, "Who dances?")
    before = sorted(tmp_path.iterdir())
    result = clean(tests_file, data)
    assert result["output"] is None and result["dropped"] == {"record holds a test question": 1}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.jsonl", b'{"a": "b"}\nnot JSON\n', r"data\.jsonl:2: not valid JSON Lines"),
        ("data.txt", b"One.\n\nTwo.\n\xff\n", r"data\.txt:3: not UTF-8"),
        ("data.txt", b"One.\n\0\n", r"data\.txt:2: holds a NUL character"),
        ("data.parquet", b"nothing", r"data\.parquet: not readable as Parquet"),
        ("data.json", b"[]", r"data\.json: no file of a known format; known: \.jsonl"),
    ],
)
@pytest.mark.parametrize("writes", [True, False])
def test_files_that_cannot_be_used_leave_nothing(
    tests_file: Path, tmp_path: Path, name: str, content: bytes, message: str, writes: bool
) -> None:
    data = tmp_path / name
    data.write_bytes(content)
    with pytest.raises(InputError, match=message):
        clean(tests_file, data, output=tmp_path / "clean" if writes else None)
    assert not [path for path in (tmp_path / "clean").glob("*") if path.name != "rejects.jsonl"]


def test_what_would_be_overwritten(tests_file: Path, tmp_path: Path) -> None:
    data = write_tests(tmp_path / "data.jsonl", SIZE)
    with pytest.raises(InputError, match=r"data\.jsonl: would be replaced by its clean copy"):
        clean(tests_file, data, output=tmp_path)
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/data.jsonl").write_text("mine")
    with pytest.raises(StorageError, match=r"data\.jsonl: is there already; use --overwrite"):
        clean(tests_file, data, output=tmp_path / "clean")
    clean(tests_file, data, output=tmp_path / "clean", overwrite=True)
    (tmp_path / "clean/data.jsonl").unlink()
    with pytest.raises(StorageError, match=r"rejects\.jsonl: is there already"):
        clean(tests_file, data, output=tmp_path / "clean")
    clean(tests_file, data, output=tmp_path / "clean", overwrite=True)
    assert (tmp_path / "clean/data.jsonl").read_text() == ""
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="both would be written to"):
        clean(tests_file, data, write_tests(tmp_path / "other/data.jsonl", "x"), output=tmp_path / "new")


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli, ["decontaminate", *words])


def test_the_command(tests_file: Path, tmp_path: Path) -> None:
    data = write_tests(tmp_path / "data.jsonl", "Who dances?", f"He asked: {SIZE} Yes.")
    more = write_tests(tmp_path / "more.jsonl", "An unrelated question of another test?")
    found = invoke(str(data), "--against", str(tests_file), str(more), "--output", str(tmp_path / "clean"))
    assert found.exit_code == 0, found.output
    assert f"{data}: 1 of 2 records hold a test question" in found.output
    assert f"  {tests_file}: 3 questions, found in 1 records" in found.output
    assert f"  {more}: 1 questions, found in 0 records" in found.output
    assert "he asked [[what is the size of a hive]] yes" in found.output
    assert (tmp_path / "clean/data.jsonl").read_text() == '{"question": "Who dances?"}\n'
    as_json = json.loads(invoke(str(data), "--json", "--against", str(more), "--against", str(tests_file)).output)
    assert as_json["dropped"] == {"record holds a test question": 1}
    assert invoke(str(data), "--ngram", "5", "--against", str(tests_file)).exit_code == 0


def test_check_fails_if_anything_matches(tests_file: Path, tmp_path: Path) -> None:
    data = write_tests(tmp_path / "data.jsonl", "Who dances?", SIZE)
    found = invoke(str(data), "--against", str(tests_file), "--check")
    assert isinstance(found.exception, UserError) and found.exception.exit_status == 3
    assert str(found.exception) == "1 of 2 records hold a test question"
    assert invoke(str(write_tests(data, "Who dances?")), "--against", str(tests_file), "--check").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.jsonl"], "Missing option '--against'"),
        (["data.jsonl", "--against"], "Option '--against' requires an argument"),
        (["--against", "test.jsonl", "data.jsonl"], "Missing argument 'FILE...'"),
        (["data.jsonl", "--against", "test.jsonl", "--check", "--output", "x"], "--check writes nothing"),
        (["data.jsonl", "--against", "test.jsonl", "--ngram", "3"], "3 is not in the range"),
    ],
)
def test_what_means_nothing(words: list[str], message: str) -> None:
    found = invoke(*words)
    assert found.exit_code == 2 and message in found.output


def test_the_option_that_names_the_fields_is_in_the_error(tests_file: Path, tmp_path: Path) -> None:
    data = write_tests(tmp_path / "data.jsonl", SIZE)
    found = invoke(str(data), "--against", str(tests_file), "--question-key", "q")
    assert str(found.exception).endswith("under q; the records have question; set --question-key")


def test_a_recipe_is_not_taken_for_data(tests_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("corpus: {inputs: [a]}\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: .*decontaminate-data"):
        clean(tests_file, recipe)
