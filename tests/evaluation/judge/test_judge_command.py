from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from megatron_ipt.cli import cli
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.evaluation.judge.read import read_output
from megatron_ipt.files import atomic_jsonl, write_json
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.synthesis.statistics import Statistics

from .test_judge_measures import EXAMPLES


@pytest.fixture
def folder(tmp_path):
    """Two shards of a stage, two texts each, with their markers."""
    for number in (0, 1):
        chain = Chain(f"c{number}", "train", EXAMPLES[2 * number : 2 * number + 2])
        with atomic_jsonl(tmp_path / "synthesis" / f"shard-{number:05d}.jsonl.zst") as writer:
            writer.write(chain.to_json())
        statistics = Statistics()
        statistics.add_chain(chain)
        statistics.counts["requests"] = 2
        statistics.dropped["empty answer"] = number
        write_json(tmp_path / "synthesis" / f"shard-{number:05d}.done.json", statistics.to_json())
    return tmp_path / "synthesis"


def invoke(*arguments):
    return CliRunner().invoke(cli, ["judge", *map(str, arguments)], catch_exceptions=False)


def test_a_folder_of_the_stage_with_its_counts(folder, tmp_path):
    outcome = invoke(folder, "--output", tmp_path / "out.json", "--json")
    result = json.loads(outcome.stdout)
    assert result == json.loads((tmp_path / "out.json").read_text())
    assert (result["amounts"]["texts"], result["amounts"]["pairs"]) == (4, 5)
    # Of four completions three have pairs; of six pairs that were begun one could not be read.
    assert result["parsing"]["share_with_pairs"] == 3 / 4 and result["parsing"]["parse_rate"] == 5 / 6
    assert result["relevance"]["own_text_first"] == 4 / 5 and "gold" not in result
    # A run folder means its stage.
    assert json.loads(invoke(folder.parent, "--json").stdout) == result


def test_single_shards_a_limit_and_a_table(folder, tmp_path):
    shard = folder / "shard-00001.jsonl.zst"
    assert [example.id for example in read_output([shard]).examples] == ["c", "d"]
    assert [example.id for example in read_output([folder], limit=3).examples] == ["a", "b", "c"]
    (folder / "shard-00001.done.json").unlink()
    assert read_output([folder]).statistics is None
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"context":"Ice floats on water.","tasks":[{"question":"What floats?","answer":"ice"}]}\n')
    lines = invoke(shard, "--gold", gold).stdout.splitlines()
    assert "  pairs per text                  0.50  (median 0, p95 1, max 1)" in lines
    assert "  gold questions with a match     100.0 %" in lines
    # "Ice floats on oil" against "ice": precision 1/4, recall 1.
    assert "  F1 of matched answers           40.0 %" in lines


def test_what_cannot_be_judged(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        invoke("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no shards"):
        invoke(tmp_path / "empty")
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match=r"x\.jsonl:1: not a chain of texts with pairs"):
        invoke(tmp_path / "x.jsonl")
    with pytest.raises(RecipeError, match="--answer-with requires --gold"):
        invoke(folder, "--answer-with", "transformers")
    with pytest.raises(RecipeError, match="require --answer-with"):
        invoke(folder, "--set", "generation.model=x")
    with pytest.raises(RecipeError, match=r"generation\.model: required by the engine transformers"):
        invoke(folder, "--gold", "g", "--answer-with", "transformers")
