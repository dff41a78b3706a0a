"""Which stages a recipe has, what each reads from whom, and how a custom one takes its place."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from megatron_ipt import stages
from megatron_ipt.config import key
from megatron_ipt.errors import RecipeError
from megatron_ipt.pipeline import context_of, stage_of
from megatron_ipt.recipe import Recipe, load_recipe, recipe_type, stages_of
from megatron_ipt.stages import (
    AUGMENTED,
    CHAINS,
    CHECKPOINTS,
    DOCUMENTS,
    MODEL,
    TOKENS,
    Stage,
    all_stages,
    inputs_of,
    makers_of,
    register,
    stage_named,
)

AFTER_TOKENS = ["training", "export", "evaluation", "report"]
STAGE = """
from dataclasses import dataclass
from megatron_ipt.config import key
from megatron_ipt.stages import DOCUMENTS, Stage, register

@dataclass
class LowerConfig:
    suffix: str = key("", "Added to every text.")

def run(config, context):
    from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl
    count = 0
    for lane in ("synthesis", "raw"):
        for shard in list_shards(context.inputs[DOCUMENTS] / lane):
            with atomic_jsonl(context.directory / lane / shard.name) as writer:
                for record in read_jsonl(shard):
                    writer.write(record | {"text": record["text"].lower() + config.suffix})
                    count += 1
    return {"documents": count}

register(Stage("lower", "lower", "Lower the case of every document.", LowerConfig, f"{__name__}:run",
               reads=(DOCUMENTS,), makes=(DOCUMENTS,)))
"""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table of stages that is as before when the test ends."""
    monkeypatch.setattr(stages, "_TABLE", list(all_stages()))
    yield


def names(*overrides: str) -> list[str]:
    return [stage.name for stage in stages_of(load_recipe(None, overrides))]


def test_every_section_of_the_recipe_is_that_of_a_stage():
    sections = {field.name for field in dataclasses.fields(Recipe) if dataclasses.is_dataclass(field.default_factory)}
    assert sections == {stage.name for stage in all_stages()}
    assert all(len(stage.help) <= 58 for stage in all_stages())


def test_a_flow_begins_where_there_is_data():
    assert names("corpus.inputs=[a]") == ["corpus", "synthesis", "augment", "tokens", *AFTER_TOKENS]
    assert names("tuning.datasets.x.inputs=[a]") == ["tuning", *AFTER_TOKENS]
    assert names("synthesis.engine=replay", "synthesis.replay.inputs=[a]") == [
        "synthesis", "augment", "tokens", *AFTER_TOKENS,
    ]  # fmt: skip
    assert names("tokens.sources.mine.inputs=[a]") == ["tokens", *AFTER_TOKENS]


def test_without_data_every_way_to_give_some_is_named():
    with pytest.raises(RecipeError, match=r"^corpus\.inputs: is empty.* tuning\.datasets"):
        names()


def test_two_beginnings_that_make_the_same_are_refused():
    with pytest.raises(RecipeError, match=r"tuning\.datasets: tokens and tuning both make token data"):
        names("corpus.inputs=[a]", "tuning.datasets.x.inputs=[a]")


def test_a_section_that_is_null_is_a_stage_that_does_not_exist(tmp_path):
    assert names("corpus.inputs=[a]", "evaluation=null")[-2:] == ["export", "report"]
    assert names("corpus.inputs=[a]", "skip=[export]") == names("corpus.inputs=[a]", "export=null")
    # What reads only what nobody makes any more is gone as well.
    assert names("corpus.inputs=[a]", "training=null") == ["corpus", "synthesis", "augment", "tokens", "report"]
    # A corpus without pairs is trained on as it is.
    assert names("corpus.inputs=[a]", "synthesis=null")[:3] == ["corpus", "tokens", "training"]
    file = tmp_path / "r.yaml"
    file.write_text("corpus: {inputs: [a]}\nevaluation: null\nskip: [report]\n")
    assert load_recipe(file).skip == ["evaluation", "report"]
    # Later words win over earlier ones.
    assert load_recipe(file, ["skip=[]"]).skip == []


def test_an_unknown_stage_to_skip_is_named():
    with pytest.raises(
        RecipeError, match=r"skip: 'evalution' is not a stage; the stages are corpus, proxy, fitting, scoring"
    ):
        names("corpus.inputs=[a]", "skip=evalution")


def test_what_each_stage_reads():
    recipe = load_recipe(None, ["corpus.inputs=[a]", "output_dir=/o"])
    reads = {stage.name: context_of(stage, recipe).inputs for stage in stages_of(recipe)}
    o = Path("/o")
    assert reads["corpus"] == {}
    assert reads["synthesis"] == {DOCUMENTS: o / "corpus"}
    assert reads["augment"] == {CHAINS: o / "synthesis"}
    assert reads["tokens"] == {DOCUMENTS: o / "corpus", AUGMENTED: o / "augment"}
    assert reads["training"] == {TOKENS: o / "tokens"}
    assert reads["export"] == {CHECKPOINTS: o / "training", TOKENS: o / "tokens"}
    assert reads["evaluation"] == {CHECKPOINTS: o / "training", TOKENS: o / "tokens", MODEL: o / "export"}
    assert reads["report"] == {stage.name: o / stage.name for stage in stages_of(recipe)[:-1]}


def test_why_a_stage_is_not_of_this_recipe():
    recipe = load_recipe(None, ["tuning.datasets.x.inputs=[a]", "evaluation=null"])
    for name, reason in (
        ("augment", "nothing makes the chains that it reads"),
        ("corpus", r"corpus\.inputs names no data"),
        ("synthesize", r"synthesis\.replay\.inputs names no data and nothing makes documents"),
        ("evaluate", "it is skipped"),
        ("judge-pairs", r"its section does not ask for it \(`megatron-ipt keys judge`\)"),
    ):
        with pytest.raises(RecipeError, match=f"{stage_named(name).command}: not a stage of this recipe, .*{reason}"):
            stage_of(recipe, name)


@dataclass
class Settings:
    level: int = key(1, "Level.", minimum=0)


def custom(name: str = "mine", **kinds: tuple[str, ...]) -> Stage:
    return Stage(name, f"{name}-it", "A stage.", Settings, "json:dumps", **kinds)


@pytest.mark.usefixtures("table")
class TestCustomStage:
    def test_its_place_follows_from_what_it_reads(self):
        register(custom("filter", reads=(DOCUMENTS,), makes=(DOCUMENTS,)))
        register(custom("sort", reads=(TOKENS,), makes=(TOKENS,)), after="tokens")
        recipe = load_recipe(None, ["corpus.inputs=[a]", "output_dir=/o", "filter.level=3"])
        order = [stage.name for stage in stages_of(recipe)]
        assert order == ["corpus", "filter", "synthesis", "augment", "tokens", "sort", *AFTER_TOKENS]
        assert recipe.filter.level == 3
        # Later stages read its output instead of what it replaces.
        assert context_of(stage_named("filter"), recipe).inputs == {DOCUMENTS: Path("/o/corpus")}
        assert context_of(stage_named("synthesis"), recipe).inputs == {DOCUMENTS: Path("/o/filter")}
        assert context_of(stage_named("train"), recipe).inputs == {TOKENS: Path("/o/sort")}

    def test_its_section_is_checked_like_any_other(self):
        register(custom(reads=(DOCUMENTS,)))
        with pytest.raises(RecipeError, match=r"mine\.level: -1 is below"):
            load_recipe(None, ["corpus.inputs=[a]", "mine.level=-1"])
        with pytest.raises(RecipeError, match=r"mine\.levle: unknown key\. Did you mean mine\.level"):
            load_recipe(None, ["corpus.inputs=[a]", "mine.levle=1"])
        assert "mine" in {field.name for field in dataclasses.fields(recipe_type())}

    def test_a_name_that_is_taken_is_refused_and_the_same_stage_may_come_twice(self):
        register(custom())
        register(custom())
        with pytest.raises(RecipeError, match="stage corpus: there is a stage called corpus already"):
            register(custom("corpus"))
        with pytest.raises(RecipeError, match="stage other: follows 'nowhere', which is not a stage; stages: corpus"):
            register(custom("other"), after="nowhere")


def test_a_stage_of_an_extension_that_only_the_recipe_names(tmp_path):
    (tmp_path / "lower.py").write_text(STAGE)
    (tmp_path / "text.txt").write_text("ONE Text.\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "extensions: ['${recipe_dir:}/lower.py']\noutput_dir: ${recipe_dir:}/run\ncompression: none\n"
        "corpus: {inputs: ['${recipe_dir:}/text.txt'], valid_share: 0}\nlower: {suffix: '!'}\n"
    )

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "megatron_ipt", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert call("corpus", str(recipe)).returncode == 0
    done = call("lower", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"documents": 1}
    assert json.loads((tmp_path / "run/lower/synthesis/shard-00000.jsonl").read_text())["text"] == "one text.!"
    assert "lower" in call("status", str(recipe)).stdout
    missing = call("lower", str(tmp_path / "none.yaml"))
    assert missing.returncode == 2 and "No such command 'lower'" in missing.stderr


class TestRemadeKinds:
    """A filter of two kinds, of which a recipe may have one."""

    def stages(self, *kinds: str) -> list[Stage]:
        makers = [custom(f"make-{kind}", makes=(kind,)) for kind in kinds]
        return [*makers, custom("filter", remakes=("a", "b")), custom("last", reads_if_made=("a", "b"))]

    @pytest.mark.parametrize("kinds", [(), ("a",), ("b",), ("a", "b")])
    def test_only_what_is_made_is_made_again(self, kinds: tuple[str, ...]) -> None:
        stages = self.stages(*kinds)
        assert {kind: stage.name for kind, stage in makers_of(stages).items()} == dict.fromkeys(kinds, "filter")
        assert {kind: maker.name for kind, maker in inputs_of(stages[-1], stages).items()} == dict.fromkeys(
            kinds, "filter"
        )
        assert {kind: maker.name for kind, maker in inputs_of(stages[-2], stages).items()} == {
            kind: f"make-{kind}" for kind in kinds
        }
