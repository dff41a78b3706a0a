from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import read_json
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer
from megatron_ipt.tokens.dataset.verify import verify
from megatron_ipt.tuning import stage
from megatron_ipt.tuning.config import TuningConfig
from megatron_ipt.tuning.rows import Row, RowReader
from tests.conftest import REPOSITORY
from tests.tuning.conftest import task_records, write_jsonl

Configure = Callable[..., TuningConfig]


def rows_of(folder: Path, entry: dict[str, str]) -> list[Row]:
    reader = RowReader(folder / entry["prefix"], folder / entry["loss_mask"])
    return [reader[index] for index in range(len(reader))]


def texts_in(row: Row, tokenizer: PromptTokenizer) -> list[tuple[str, int]]:
    """The texts of a row and how many pairs stand after each, separated by the mask alone."""
    found = []
    border = np.flatnonzero(np.diff(np.concatenate([[0], row.mask.astype(int), [0]])))
    start = 0
    for begin, end in border.reshape(-1, 2):
        text, answer = row.ids[start:begin].tolist(), row.ids[begin:end].tolist()
        assert text[0] == 1 and answer[-1] == 2
        pairs, faults = parse_answer(tokenizer.decode(answer))
        assert not faults
        found.append((tokenizer.decode(text).split("<CON>")[1].split("</CON>")[0].strip(), len(pairs)))
        start = end
    assert start == len(row.ids)
    return found


def test_every_example_is_learned_once(
    configure: Configure, context: StageContext, tmp_path: Path, bytes_tokenizer: PromptTokenizer
) -> None:
    records = task_records(30)
    write_jsonl(tmp_path / "houses.jsonl", records)
    config = configure(f"datasets.houses.inputs=[{tmp_path / 'houses.jsonl'}]")
    counts = stage.run(config, context)
    dataset = read_json(context.directory / "dataset.json")
    (entry,) = dataset["train"]
    rows = rows_of(context.directory, entry)
    found = [example for row in rows for example in texts_in(row, bytes_tokenizer)]
    assert Counter(found) == Counter((record["context"], len(record["tasks"])) for record in records)
    assert len(rows) < 30 and max(len(row.ids) for row in rows) <= 257
    # Shots of one sequence see each other; the row begins with a token that nothing predicts.
    assert all(row.lengths.tolist() == [len(row.ids)] and not row.mask[0] for row in rows)
    assert counts["train"] == {
        "documents": len(rows), "examples": 30, "tokens": sum(len(row.ids) for row in rows),
        "loss_tokens": sum(int(row.mask.sum()) for row in rows),
    }  # fmt: skip
    assert counts["train_by_source"]["houses"]["pairs"] == sum(len(record["tasks"]) for record in records)
    assert (dataset["bos_id"], dataset["eod_id"], dataset["dtype"]) == (1, 2, "uint16")
    assert counts["rejected"] == {} and not list(context.directory.glob("rejects*"))
    for prefix in ("train", "train-loss-mask"):
        assert verify(context.directory / prefix)["problems"] == []


def test_rows_are_of_one_data_set_and_repetitions_differ(
    configure: Configure, context: StageContext, tmp_path: Path, bytes_tokenizer: PromptTokenizer
) -> None:
    write_jsonl(tmp_path / "one.jsonl", task_records(20))
    problems = [{"question": f"What is {n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(20)]
    write_jsonl(tmp_path / "two.jsonl", problems)
    config = configure(
        f"datasets.one.inputs=[{tmp_path / 'one.jsonl'}]", "datasets.one.repeat=3",
        f"datasets.two.inputs=[{tmp_path / 'two.jsonl'}]", "problems_per_example=2",
    )  # fmt: skip
    stage.run(config, context)
    (entry,) = read_json(context.directory / "dataset.json")["train"]
    sources = np.load(context.directory / "train.sources.npy")
    rows = rows_of(context.directory, entry)
    assert len(sources) == len(rows) == entry["documents"]
    by_source = {0: [], 1: []}  # type: ignore[var-annotated]
    for row, source in zip(rows, sources):
        by_source[source].append([text for text, _ in texts_in(row, bytes_tokenizer)])
    assert {text for row in by_source[1] for text in row} == {""}
    one = Counter(text for row in by_source[0] for text in row)
    assert set(one.values()) == {3} and len(one) == 20
    together = {frozenset(row) for row in by_source[0] if len(row) > 1}
    assert len(together) > len(by_source[0]) / 2
    assert entry["by_source"]["one"]["examples"] == 60
    assert entry["by_source"]["two"]["examples"] == 10


def test_texts_with_most_pairs_come_first(
    configure: Configure, context: StageContext, tmp_path: Path, bytes_tokenizer: PromptTokenizer
) -> None:
    write_jsonl(tmp_path / "a.jsonl", task_records(30))
    config = configure(f"datasets.a.inputs=[{tmp_path / 'a.jsonl'}]", "datasets.a.max_examples=12")
    stage.run(config, context)
    (entry,) = read_json(context.directory / "dataset.json")["train"]
    pairs = [pairs for row in rows_of(context.directory, entry) for _, pairs in texts_in(row, bytes_tokenizer)]
    assert sorted(pairs, reverse=True) == [3] * 10 + [2] * 2


def test_same_bytes_again_and_others_with_another_seed(configure: Configure, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", task_records(30))
    config = configure(f"datasets.a.inputs=[{tmp_path / 'a.jsonl'}]", "valid_share=0.2")
    contents = []
    for name, seed in (("first", 7), ("second", 7), ("other", 8)):
        context = StageContext("tuning", tmp_path / name, seed)
        stage.run(config, context)
        contents.append({path.name: path.read_bytes() for path in context.directory.glob("*.*") if path.is_file()})
    assert contents[0] == contents[1] != contents[2]
    assert {"train.bin", "train-loss-mask.bin", "valid-a.bin", "valid-a-loss-mask.bin"} <= contents[0].keys()


def test_chats_are_packed_apart_cut_and_rejected(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    def turns(*contents: str) -> dict[str, list[dict[str, str]]]:
        roles = ("user", "assistant") * len(contents)
        return {"messages": [{"role": role, "content": content} for role, content in zip(roles, contents)]}

    short = [turns(f"What is {n}?", f"{n}.") for n in range(20)]
    long = turns("Go on.", "I go on.", "And?", "And on. " * 200)
    path = write_jsonl(tmp_path / "a.jsonl", [*short, long, turns("Go. " * 300, "No."), {"messages": []}])
    config = configure("kind=instructions", "template=chat", f"datasets.a.inputs=[{path}]")
    counts = stage.run(config, context)
    (entry,) = read_json(context.directory / "dataset.json")["train"]
    rows = rows_of(context.directory, entry)
    assert sum(len(row.lengths) for row in rows) == entry["examples"] == 21
    for row in rows:
        starts = np.concatenate([[0], np.cumsum(row.lengths)])
        assert starts[-1] == len(row.ids) <= 257
        assert (row.ids[starts[:-1]] == 1).all() and not row.mask[starts[:-1]].any()
        assert (row.ids[starts[1:] - 1] == 2).all() and row.mask[starts[1:] - 1].all()
    assert counts["chats_cut_short"] == 1
    rejects = [json.loads(line) for line in (context.directory / "rejects-a.jsonl").read_text().splitlines()]
    assert [(record["reason"], record["line"]) for record in rejects] == [
        ("no messages", 23), ("chat whose first exchange is longer than a row", 22)
    ]  # fmt: skip
    assert counts["rejected"] == {"a": 2}
    assert "assistant" in (context.directory / "tokenizer/chat_template.jinja").read_text()


def test_tokenizer_is_trained_on_the_data(context: StageContext, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", task_records(60))
    settings = ["tokenizer.vocab_size=400", f"datasets.a.inputs=[{path}]", "seq_length=256"]
    counts = stage.run(load(TuningConfig, None, settings), context)
    assert 300 < counts["vocab_size"] <= 400
    assert (context.directory / "tokenizer/tokenizer.model").is_file()


def test_what_cannot_be_tuned_on(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"context": "Ann sings.", "tasks": []}])
    with pytest.raises(InputError, match=r"tuning\.datasets\.a: no usable example in .*empty\.jsonl$"):
        stage.run(configure(f"datasets.a.inputs=[{empty}]"), context)
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"a": 1}])
    with pytest.raises(InputError, match=r"unknown\.jsonl: matches none of the formats of tuning\.datasets\.a\."):
        stage.run(configure(f"datasets.a.inputs=[{unknown}]"), context)
    with pytest.raises(InputError, match=r"tuning\.datasets\.a\.inputs: .*missing\.jsonl: no such file"):
        stage.fingerprints(configure(f"datasets.a.inputs=[{tmp_path / 'missing.jsonl'}]"))
    long = write_jsonl(tmp_path / "long.jsonl", [{"context": "Ann. " * 999, "tasks": task_records(1)[0]["tasks"]}])
    with pytest.raises(InputError, match=r"1 of 1 records were rejected \(text longer than a row: 1\)"):
        stage.run(configure(f"datasets.a.inputs=[{long}]"), context)


def test_rejects_are_a_share_of_all_that_was_read(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    """Not of what ``max_examples`` lets in."""
    bad = {"context": "Ann sings.", "tasks": [{"question": "Who?", "answer": "Di", "options": ["Ann", "Bob"]}]}
    path = write_jsonl(tmp_path / "a.jsonl", [*task_records(30), *[bad] * 20])
    config = configure(f"datasets.a.inputs=[{path}]", "datasets.a.max_examples=2")
    assert stage.run(config, context)["rejected"] == {"a": 20}
    with pytest.raises(InputError, match=r"20 of 80 records were rejected .* more than the limit of 10\.0%"):
        stage.run(configure(f"datasets.a.inputs=[{path}]", "maximum_reject_share=0.1"), context)


def test_settings_that_do_not_fit(configure: Configure) -> None:
    with pytest.raises(
        RecipeError, match=r"datasets\.a\.format: squad is not valid for kind instructions; valid: auto"
    ):
        configure("kind=instructions", "datasets.a.inputs=[x]", "datasets.a.format=squad")
    with pytest.raises(RecipeError, match=r"datasets\.a\.inputs: is empty"):
        configure("datasets.a.repeat=2")
    with pytest.raises(RecipeError, match=r"valid_share and test_share leave"):
        configure("valid_share=0.5", "test_share=0.5")
    with pytest.raises(RecipeError, match=r"tokenizer\.engine: gigatoken does not support tuning"):
        configure("tokenizer.engine=gigatoken")


def test_gold_files(test_data: Path, configure: Configure, context: StageContext) -> None:
    config = configure(
        f"datasets.xquad.inputs=[{test_data / 'xquad.en.json'}]", "seq_length=2048", "datasets.xquad.max_examples=60",
        f"datasets.aqua.inputs=[{test_data / 'aqua.dev.jsonl'}]", "multiple_choice_share=0.5",
    )  # fmt: skip
    counts = stage.run(config, context)
    assert counts["train_by_source"]["xquad"]["examples"] > 50
    assert counts["train_by_source"]["aqua"]["pairs"] > 200
    assert 0.2 < counts["loss_share"] < 0.95


def test_examples_are_wholly_used(configure: Configure, tmp_path: Path) -> None:
    folder = REPOSITORY / "examples/tuning"
    texts = configure(f"datasets.tasks.inputs=[{folder / 'tasks.jsonl'}]", "seq_length=1024")
    counts = stage.run(texts, StageContext("tuning", tmp_path / "texts", 7))
    assert (counts["train"]["examples"], counts["train_by_source"]["tasks"]["pairs"]) == (12, 35)
    chats = configure("kind=instructions", "template=chat", f"datasets.chats.inputs=[{folder / 'chats.jsonl'}]")
    counts = stage.run(chats, StageContext("tuning", tmp_path / "chats", 7))
    assert (counts["train"]["examples"], counts["train_by_source"]["chats"]["responses"]) == (10, 13)
    assert counts["rejected"] == {}
