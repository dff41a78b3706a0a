"""Options of a stage's command that do something other than making its output, or before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STAGE = """
from dataclasses import dataclass
from megatron_ipt.config import key
from megatron_ipt.files import list_shards, read_jsonl
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.parallel import share_of
from megatron_ipt.stages import DOCUMENTS, Action, Stage, Units, register

@dataclass
class LowerConfig:
    suffix: str = key("", "Added to every text.")

def units(config, context):
    return Units(("shard-00000", "shard-00001"))

def run(config, context, shard=None):
    markers = ShardMarkers(context.directory)
    made = 0
    for name in share_of(units(config, context).names, shard):
        if markers.counts(name) is None:
            markers.finish(name, {"made": 1})
            made += 1
    return {"made": made}

def preview(config, context):
    shards = list_shards(context.inputs[DOCUMENTS] / "raw")
    return {"suffix_used": config.suffix, "documents": sum(1 for shard in shards for _ in read_jsonl(shard))}

def shout(result):
    return f"SHOUTED {result['word']}"

def say(config, context, value):
    return {"word": value}

def forget(config, context, shard):
    forgotten = [name for name in share_of(units(config, context).names, shard)]
    for name in forgotten:
        (context.directory / f"{name}.done.json").unlink(missing_ok=True)
    return {"forgotten": forgotten}

register(Stage("lower", "lower", "Lower the case of every document.", LowerConfig, f"{__name__}:run",
               reads=(DOCUMENTS,), makes=(DOCUMENTS,), units=f"{__name__}:units", actions=(
                   Action("--preview", "Look first.", f"{__name__}:preview"),
                   Action("--say", "Say it.", f"{__name__}:say", value="WORD", render=f"{__name__}:shout"),
                   Action("--forget-all", "Make it again.", f"{__name__}:forget", then_run=True),
               )))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "lower.py").write_text(STAGE)
    (tmp_path / "text.txt").write_text("ONE Text.\n")
    path = tmp_path / "r.yaml"
    path.write_text(
        "extensions: ['${recipe_dir:}/lower.py']\noutput_dir: ${recipe_dir:}/run\ncompression: none\n"
        "corpus: {inputs: ['${recipe_dir:}/text.txt'], valid_share: 0, synthesis_share: 0}\nlower: {suffix: '!'}\n"
    )
    return path


def call(*arguments: Any, status: int = 0) -> str:
    command = [sys.executable, "-m", "megatron_ipt", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_actions_of_a_custom_stage(recipe: Path) -> None:
    assert "needs the finished output of stage corpus" in call("lower", recipe, "--preview", status=4)
    call("corpus", recipe)
    folder = recipe.parent / "run/lower"

    # Instead of the stage.
    assert call("lower", recipe, "--preview") == "suffix used: !\ndocuments: 1\n"
    assert json.loads(call("lower", recipe, "lower.suffix=x", "--preview", "--json")) == {
        "suffix_used": "x", "documents": 1,
    }  # fmt: skip
    assert call("lower", recipe, "--say", "boo") == "SHOUTED boo\n"
    assert not folder.exists()

    # Before the stage: also where it is complete.
    call("lower", recipe)
    row = json.loads(call("lower", recipe, "--forget-all", "--json"))
    assert row["forget_all"] == {"forgotten": ["shard-00000", "shard-00001"]}
    assert (row["status"], row["counts"]) == ("complete", {"made": 2})

    # A share of it. The stage is incomplete until a run without --shard.
    assert call("lower", recipe, "--forget-all", "--shard", "1/2") == "forgotten: ['shard-00001']\n"
    assert json.loads((folder / "manifest.json").read_text())["status"] == "running"
    assert json.loads((folder / "shard-00001.done.json").read_text()) == {"made": 1}
    assert json.loads(call("lower", recipe, "--json"))["status"] == "complete"

    # Output of other settings is not touched.
    assert "lower.suffix: was '!', is 'x'" in call("lower", recipe, "lower.suffix=x", "--forget-all", status=4)
    assert (folder / "shard-00000.done.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preview", "--forget-all"), "--preview and --forget-all: one at a time"),
        (("--preview", "--overwrite"), "--preview with --overwrite: run them one after the other"),
        (("--preview", "--shard", "0/2"), "--preview: cannot be divided with --shard"),
        (("--say",), "Option '--say' requires an argument"),
    ],
)
def test_combinations_that_mean_nothing(recipe: Path, options: tuple[str, ...], message: str) -> None:
    assert message in call("lower", recipe, *options, status=2)


def test_actions_are_in_the_help_of_the_command(recipe: Path) -> None:
    page = call("lower", recipe, "--help")
    assert "--preview" in page and "--say WORD" in page and "Make it again." in page
