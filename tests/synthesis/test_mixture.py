"""Several prompt styles in one run."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Completion, Request
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.mixture import StyleMixture, StyleShare
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.instant import answer_for, text_of
from tests.synthesis.scripted import StrongEngine, answer_about, write_chat_tokenizer

pytest.importorskip("jinja2")
OWN = "examples/extensions/plain_questions.py:PlainQuestions"
MIXED = "{synthesizer: 0.5, chat: 0.25, tasks.yaml: 0.25}"


def answer_to(request: Request) -> str:
    """A proper answer in whatever style the prompt is."""
    return answer_for(text_of(request)) if "<CON>" in request.prompt.text else answer_about(request.prompt.text)


class BothEngine(StrongEngine):
    asked: ClassVar[list[Request]] = []

    def answer(self, request: Request) -> str:
        self.asked.append(request)
        return answer_to(request)


class MortalEngine(BothEngine):
    """Kills its process at a request."""

    left: ClassVar[int | None] = None

    async def generate(self, request: Request) -> Completion:
        await asyncio.sleep(0)
        if MortalEngine.left is not None:
            MortalEngine.left -= 1
            if MortalEngine.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return await super().generate(request)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tokenizer(tmp_path_factory.mktemp("mixed"))


@pytest.fixture
def configure_mixed(
    configure: Callable[..., SynthesisConfig], chat_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SynthesisConfig]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.yaml").write_text("tasks: {summary: }")

    def build(**overrides: Any) -> SynthesisConfig:
        settings = {
            "engine": "tests.synthesis.test_mixture:BothEngine",
            "prompt": MIXED,
            "generation.model": chat_folder,
            "generation.context_length": 2048,
        }
        return configure(**(settings | overrides))

    return build


def run(config: SynthesisConfig, context: StageContext, shards: list[list[str]]) -> dict[str, Any]:
    write_corpus(context.inputs[DOCUMENTS], shards)
    return stage.run(config, context)


def styles_by_text(context: StageContext) -> dict[str, set[str]]:
    return {
        example.id: {pair.style for pair in example.pairs}
        for chain in stage.chains_in(context.directory)
        for example in chain.examples
    }


def test_a_chain_has_one_style_and_every_pair_says_which(
    configure_mixed: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    counts = run(configure_mixed(), context, [texts_of(60)])
    assert counts["texts_with_pairs"] == 60 and counts["dropped"] == {}
    chains = list(stage.chains_in(context.directory))
    assert [len(chain.examples) for chain in chains] == [2] * 30
    seen = Counter(pair.style for chain in chains for example in chain.examples for pair in example.pairs)
    assert counts["styles"] == seen and set(seen) == {"synthesizer", "chat", "tasks.yaml"}
    for chain in chains:
        assert len({pair.style for example in chain.examples for pair in example.pairs}) == 1
        for example in chain.examples:
            for pair in example.pairs:
                assert bool(pair.task) == (pair.style != "synthesizer")
                assert pair.style != "tasks.yaml" or pair.task == "summary"


def test_each_style_prompts_and_decodes_as_it_does_alone(
    configure_mixed: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    BothEngine.asked.clear()
    run(configure_mixed(), context, [texts_of(20)])
    by_chain: dict[int, list[Request]] = {}
    for request in BothEngine.asked:
        by_chain.setdefault(request.chain, []).append(request)
    seen = set()
    for first, second in by_chain.values():
        synthesizer = "<CON>" in first.prompt.text
        seen.add(synthesizer)
        # Only the synthesizer's prompt grows, and it is greedy where the recipe says nothing.
        assert (second.prompt.ids[: len(first.prompt.ids)] == first.prompt.ids) == synthesizer
        decoding = (0.0, 1.0) if synthesizer else (0.7, 0.9)
        assert all((each.sampling.temperature, each.sampling.top_p) == decoding for each in (first, second))
        assert (first.sampling.json_schema is None) == (synthesizer or '"pairs"' not in first.prompt.text)
    assert seen == {True, False}


def test_the_draw_depends_on_the_first_text_alone_and_follows_the_shares(prompts: PromptFormat) -> None:
    greedy = Sampling(128)
    styles = StyleMixture([StyleShare("a", prompts, 0.6, greedy), StyleShare("b", prompts, 0.2, greedy)], 3)
    drawn = {f"d{number}": styles.draw(f"d{number}").name for number in range(10_000)}
    assert drawn == {name: styles.draw(name).name for name in reversed(drawn)}
    # Three of four; five standard deviations are 0.022.
    assert abs(Counter(drawn.values())["a"] / 10_000 - 0.75) < 0.022
    assert drawn != {name: StyleMixture(styles.shares, 4).draw(name).name for name in drawn}


def test_later_documents_do_not_change_the_styles_of_earlier_ones(
    configure_mixed: Callable[..., SynthesisConfig], context: StageContext, tmp_path: Path
) -> None:
    run(configure_mixed(), context, [texts_of(20)])
    more = StageContext("synthesis", tmp_path / "more/synthesis", 7, {DOCUMENTS: tmp_path / "more/corpus"})
    run(configure_mixed(), more, [texts_of(20) + texts_of(10, 30), texts_of(7, 50)])
    before, after = styles_by_text(context), styles_by_text(more)
    assert {name: after[name] for name in before} == before


def test_texts_fit_every_style(configure_mixed: Callable[..., SynthesisConfig], context: StageContext) -> None:
    """The prompt of ``chat`` is longer than that of ``synthesizer``, so its limit counts for all."""
    text = " ".join(texts_of(200))
    config = configure_mixed(passage_characters=100_000, **{"generation.context_length": 700})
    counts = run(config, context, [[text]])
    examples = [example for chain in stage.chains_in(context.directory) for example in chain.examples]
    assert "".join(example.text for example in examples) == text and len(examples) > 10
    assert counts["dropped"] == {} and len(counts["styles"]) == 3


def test_a_single_style_is_not_recorded(configure_mixed: Callable[..., SynthesisConfig], context: StageContext) -> None:
    counts = run(configure_mixed(prompt="{synthesizer: 2, chat: 0}"), context, [texts_of(4)])
    assert "styles" not in counts and styles_by_text(context) == {f"d{number}": {""} for number in range(4)}


def test_files_and_code_of_every_style_are_recorded(configure_mixed: Callable[..., SynthesisConfig]) -> None:
    config = configure_mixed(prompt=f"{{chat: 1, tasks.yaml: 1, {Path(__file__).parents[2] / OWN}: 1}}")
    recorded = [Path(entry["path"]).name for entry in stage.fingerprints(config)]
    assert recorded == ["tokenizer.json", "tokenizer_config.json", "tasks.yaml", "plain_questions.py"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{synthesiser: 1, chat: 1}", "prompt: 'synthesiser' is not one of .* Did you mean synthesizer"),
        ("{chat: -1, synthesizer: 1}", "prompt: the share of chat is -1; expected a number of at least 0"),
        ("{chat: .inf}", "prompt: the share of chat is inf"),
        ("{chat: 0, synthesizer: 0}", "prompt: no style has a share above 0"),
        ("{}", "prompt: no style has a share above 0"),
        ("{chat: much}", r"prompt\.chat: expected a number, found 'much'"),
        ("[chat]", r"prompt: expected text, found \['chat'\]"),
        ("null", "prompt: expected text, found null"),
    ],
)
def test_impossible_mixtures(configure_mixed: Callable[..., SynthesisConfig], prompt: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        configure_mixed(prompt=prompt)


def work(root: Path, model: Path, kill_after: int | None) -> None:
    """One run of the stage, in a process that dies at a request."""
    MortalEngine.left = kill_after
    os.chdir(root.parent)
    settings = {
        "engine": "tests.synthesis.test_mixture:MortalEngine", "prompt": MIXED, "chain_length": 2,
        "generation.model": model, "generation.context_length": 2048, "generation.max_new_tokens": 128,
    }  # fmt: skip
    config = load(SynthesisConfig, None, [f"{name}={value}" for name, value in settings.items()])
    stage.run(config, StageContext("synthesis", root / "synthesis", 7, {DOCUMENTS: root / "corpus"}))


def test_killed_and_resumed_it_has_the_same_bytes(tmp_path: Path, chat_folder: Path) -> None:
    (tmp_path / "tasks.yaml").write_text("tasks: {summary: }")
    spawn = multiprocessing.get_context("spawn")
    written = []
    for name, lives in (("whole", [None]), ("killed", [25, 70, None])):
        root = tmp_path / name
        write_corpus(root / "corpus", [texts_of(60), texts_of(60, 60)])
        for kill_after in lives:
            process = spawn.Process(target=work, args=(root, chat_folder, kill_after))
            process.start()
            process.join()
            assert process.exitcode == (0 if kill_after is None else -signal.SIGKILL)
        written.append({path.name: path.read_bytes() for path in sorted((root / "synthesis").glob("shard-*"))})
    assert written[0] == written[1]
    for marker in ("shard-00000.done.json", "shard-00001.done.json"):
        assert set(json.loads(written[0][marker])["styles"]) == {"synthesizer", "chat", "tasks.yaml"}
