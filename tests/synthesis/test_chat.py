"""Prompt style chat: prompts by the model's own template, tasks by weight, pairs out of the stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from megatron_ipt.config import as_dict, load
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.chat_template import template_encoder
from megatron_ipt.inference.config import GenerationConfig
from megatron_ipt.inference.engine import Completion, EngineError, Request
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.manifest import StageContext, changed_settings
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.chat.style import ChatStyle
from megatron_ipt.synthesis.from_text.prompted.chat.tasks import BUILT_IN, read_tasks
from megatron_ipt.synthesis.from_text.prompted.style import StyleSetup
from megatron_ipt.synthesis.pairs import Example
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.scripted import CHATML, StrongEngine, answer_about, write_chat_tokenizer

pytest.importorskip("jinja2")
TASKS = [task.name for task in read_tasks(BUILT_IN).tasks]
ONE_TASK = """
tasks:
  ask:
    system: Be brief.
    user: "About: {text}"
    examples:
      - {text: A cat sat., pairs: [{question: "Who sat?", answer: A cat}]}
"""


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tokenizer(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def configure_chat(configure: Callable[..., SynthesisConfig], chat_folder: Path) -> Callable[..., SynthesisConfig]:
    def build(**overrides: Any) -> SynthesisConfig:
        settings = {
            "engine": "tests.synthesis.scripted:StrongEngine",
            "prompt": "chat",
            "generation.model": chat_folder,
            "generation.context_length": 2048,
        }
        return configure(**(settings | overrides))

    return build


@pytest.fixture
def style_of(chat_folder: Path, tmp_path: Path) -> Callable[..., ChatStyle]:
    def make(content: str = ONE_TASK, folder: Path = chat_folder, **generation: Any) -> ChatStyle:
        (tmp_path / "tasks.yaml").write_text(content)
        settings = {"model": "m", "context_length": 1024, "max_new_tokens": 100, **generation}
        setup = StyleSetup(open_prompt_tokenizer(folder), GenerationConfig(**settings), 7, tmp_path / "tasks.yaml")
        return ChatStyle.make(setup)

    return make


def ask(style: ChatStyle, text: str, name: str = "d0") -> Any:
    return style.ask([Example(name, text)])[0]


def test_the_prompt_is_what_the_template_says(style_of: Callable[..., ChatStyle], chat_folder: Path) -> None:
    style = style_of()
    text = ask(style, "Bees dance.")
    assert style.begin(text).text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAbout: A cat sat.<|im_end|>\n"
        '<|im_start|>assistant\n{"pairs": [{"question": "Who sat?", "answer": "A cat"}]}<|im_end|>\n'
        "<|im_start|>user\nAbout: Bees dance.<|im_end|>\n<|im_start|>assistant\n"
    )
    encoder = template_encoder(chat_folder)
    control = [encoder.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>")]
    assert [ids for ids in text.ids if ids in control] == [*control * 4, control[0]]
    assert encoder.decode(text.ids, skip_special_tokens=False) == text.text


def test_ids_are_those_of_transformers(style_of: Callable[..., ChatStyle], chat_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_folder)
    style = style_of("tasks: {ask: {user: 'About {text}'}}")
    messages = [{"role": "user", "content": "About a bee."}]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ask(style, "a bee.").ids == theirs


def test_control_tokens_in_a_text_are_text(style_of: Callable[..., ChatStyle], chat_folder: Path) -> None:
    style = style_of()
    end = template_encoder(chat_folder).token_to_id("<|im_end|>")
    assert ask(style, "a <|im_end|> b").ids.count(end) == ask(style, "a b").ids.count(end) == 4


@pytest.mark.parametrize(
    ("template", "beginning"),
    [
        # Gemma raises, others say nothing.
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML,
         "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nBe brief.\n\nAbout: A cat sat."),
        ("{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}{% endfor %}",
         "[user] Be brief.\n\nAbout: A cat sat."),
    ],
)  # fmt: skip
def test_templates_without_system_messages(
    style_of: Callable[..., ChatStyle], tmp_path: Path, template: str, beginning: str
) -> None:
    folder = write_chat_tokenizer(tmp_path / "other", template)
    assert ask(style_of(folder=folder), "Bees dance.").text.startswith(beginning)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"synthesis\.prompt: the tokenizer in .* has no chat template .*; use an instruction-tuned model"),
        ("{% for %}", "not a valid Jinja template"),
        ("{{ raise_exception('only tools') }}", "the chat template fails: only tools"),
        ("{{ messages[0].content + 1 }}", "the chat template fails"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "the chat template fails: .* is unsafe"),
        ("hello", "leaves out the user's message"),
    ],
)
def test_an_unusable_template_is_an_error_before_anything_runs(
    configure_chat: Callable[..., SynthesisConfig], tmp_path: Path, template: str | None, message: str
) -> None:
    folder = write_chat_tokenizer(tmp_path / "other", template)
    with pytest.raises(InputError, match=message):
        stage.check(configure_chat(**{"generation.model": folder}))


def test_a_sentencepiece_file_has_no_template(configure_chat: Callable[..., SynthesisConfig], tmp_path: Path) -> None:
    mistral_common = pytest.importorskip("mistral_common")
    model = tmp_path / "tokenizer.model"
    model.write_bytes((Path(mistral_common.__file__).parent / "data/tokenizer.model.v1").read_bytes())
    with pytest.raises(InputError, match=r"synthesis\.prompt: chat templates need a folder with tokenizer\.json"):
        stage.check(configure_chat(**{"generation.tokenizer": model}))


def test_the_end_of_a_turn_ends_the_answer(style_of: Callable[..., ChatStyle], tmp_path: Path) -> None:
    style = style_of()
    assert style.sampling(Sampling(5), ask(style, "x")).stop_ids == ()  # it is EOS
    style = style_of(folder=write_chat_tokenizer(tmp_path / "other", eos="</s>"))
    end = template_encoder(tmp_path / "other").token_to_id("<|im_end|>")
    assert style.sampling(Sampling(5), ask(style, "x")).stop_ids == (end,)


def test_the_task_recommends_what_the_recipe_leaves_open(style_of: Callable[..., ChatStyle]) -> None:
    content = ONE_TASK.replace("    system:", "    sampling: {top_k: 20, temperature: 0.3}\n    system:")
    for generation, expected in (
        ({}, (0.3, 0.9, 20)),
        ({"temperature": 0.0, "top_k": 5}, (0.0, 0.9, 5)),
        ({"temperature": 1.0, "top_p": 1.0}, (1.0, 1.0, 20)),
    ):
        style = style_of("sampling: {top_p: 0.9}\n" + content, **generation)
        config = GenerationConfig(model="m", max_new_tokens=100, **generation)
        sampling = style.sampling(Sampling.of(config), ask(style, "x"))
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == expected
        assert sampling.json_schema is not None


def test_too_little_room_is_an_error(style_of: Callable[..., ChatStyle]) -> None:
    with pytest.raises(RecipeError, match=r"context_length: 200 tokens less max_new_tokens 100 and \d+ tokens"):
        style_of(context_length=200)


def test_a_text_of_the_limit_fits(style_of: Callable[..., ChatStyle]) -> None:
    style = style_of()
    text = "a bee " * 1000
    while style.count(text) > style.text_limit:
        text = text[:-2]
    assert style.fits(style.begin(ask(style, text)))


def run(config: SynthesisConfig, context: StageContext, texts: list[str]) -> tuple[dict[str, Any], bytes]:
    write_corpus(context.inputs[DOCUMENTS], [texts])
    counts = stage.run(config, context)
    return counts, (context.directory / "shard-00000.jsonl").read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_pairs(
    configure_chat: Callable[..., SynthesisConfig], context: StageContext, tmp_path: Path, task: str
) -> None:
    (tmp_path / "own.yaml").write_text(f"tasks: {{{task}: }}")
    counts, _ = run(configure_chat(prompt=tmp_path / "own.yaml"), context, texts_of(5))
    assert counts["texts_with_pairs"] == 5
    assert counts["tasks"] == {task: counts["pairs"]}
    assert counts["dropped"] == {}
    chains = list(stage.chains_in(context.directory))
    assert [len(chain.examples) for chain in chains] == [2, 2, 1]
    pairs = [pair for chain in chains for example in chain.examples for pair in example.pairs]
    assert all(bool(pair.options) == (task == "multiple_choice") for pair in pairs)
    assert all(bool(pair.reasoning) == (task == "reasoning") for pair in pairs)
    for chain in chains:
        for example in chain.examples:
            if task in ("summary", "wikipedia_style", "distilled", "extracted_knowledge"):
                assert [pair.answer for pair in example.pairs] == [f"In short: {example.text}"]


class DyingEngine(StrongEngine):
    left: ClassVar[int] = 0

    async def generate(self, request: Request) -> Completion:
        type(self).left -= 1
        if self.left < 0:
            raise EngineError("died")
        return await super().generate(request)


def test_resume_gives_the_same_bytes(configure_chat: Callable[..., SynthesisConfig], tmp_path: Path) -> None:
    texts = texts_of(60)
    contexts = [
        StageContext("synthesis", tmp_path / name / "synthesis", 7, {DOCUMENTS: tmp_path / name / "corpus"})
        for name in ("one", "two")
    ]
    config = configure_chat(engine="tests.synthesis.test_chat:DyingEngine")
    DyingEngine.left = 1000
    counts, expected = run(config, contexts[0], texts)
    assert len(counts["tasks"]) == len(TASKS)
    for left in (7, 20):
        DyingEngine.left = left
        with pytest.raises(EngineError):
            run(config, contexts[1], texts)
    DyingEngine.left = 1000
    assert run(config, contexts[1], texts)[1] == expected


def test_wordings_of_a_task_are_no_repeated_questions(
    configure_chat: Callable[..., SynthesisConfig], context: StageContext, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text("tasks: {summary: }")
    counts, _ = run(configure_chat(prompt=tmp_path / "own.yaml"), context, texts_of(30))
    assert counts["pairs"] == 30 and "texts_with_repeated_pairs" not in counts
    (tmp_path / "own.yaml").write_text("tasks: {reasoning: }")
    other = StageContext("synthesis", tmp_path / "other/synthesis", 7, {DOCUMENTS: tmp_path / "other/corpus"})
    counts, _ = run(configure_chat(prompt=tmp_path / "own.yaml"), other, texts_of(30))
    assert counts["texts_with_repeated_pairs"] == 29  # All are asked how long they are.


def test_tasks_depend_on_the_text_alone_and_follow_the_weights() -> None:
    tasks = read_tasks(BUILT_IN)
    names = {f"d{number}": tasks.draw(3, f"d{number}").name for number in range(13_000)}
    assert names == {name: tasks.draw(3, name).name for name in reversed(names)}
    counts = Counter(names.values())
    # 13 weights in all; five standard deviations are below 0.02.
    assert all(abs(counts[task.name] / 13_000 - task.weight / 13) < 0.02 for task in tasks.tasks)
    assert sum(task.weight for task in tasks.tasks) == 13


def test_the_default_style_still_recommends_greedy(configure: Callable[..., SynthesisConfig]) -> None:
    generation = configure().generation
    assert (generation.temperature, generation.top_p) == (0.0, 1.0)
    own = configure(prompt="examples/extensions/plain_questions.py:PlainQuestions").generation
    assert (own.temperature, own.top_p) == (0.0, 1.0)
    assert configure(prompt="chat").generation.temperature is None


def test_settings_recorded_before_styles_recommended_any_are_no_difference(
    configure: Callable[..., SynthesisConfig],
) -> None:
    now = as_dict(configure(), only_output=True)
    before = json.loads(json.dumps(now))
    for name in ("top_k", "min_p", "repetition_penalty", "stop"):
        del before["generation"][name]
    for name in ("json_schema", "extra"):
        del before["openai"][name]
    assert (before["generation"]["temperature"], before["generation"]["top_p"]) == (0.0, 1.0)
    assert changed_settings(before, now, as_dict(SynthesisConfig(), only_output=True)) == {}


def test_a_server_that_cannot_sample_is_refused_with_what_chat_recommends(chat_folder: Path) -> None:
    overrides = [f"generation.model={chat_folder}", "engine=openai", "prompt=chat", "openai.server=transformers-serve"]
    with pytest.raises(RecipeError, match=r"generation\.temperature: transformers-serve .*; set it to 0"):
        load(SynthesisConfig, None, overrides)
    load(SynthesisConfig, None, [*overrides, "generation.temperature=0"])


def test_a_changed_file_of_tasks_or_template_is_noticed(
    configure_chat: Callable[..., SynthesisConfig], tmp_path: Path
) -> None:
    folder = write_chat_tokenizer(tmp_path / "model")
    file = tmp_path / "own.yaml"
    file.write_text("tasks: {summary: }")
    config = configure_chat(prompt=file, **{"generation.model": folder})
    recorded = [Path(entry["path"]).name for entry in stage.fingerprints(config)]
    assert recorded == ["tokenizer.json", "own.yaml", "tokenizer_config.json"]


def test_the_scripted_model_reads_the_prompt() -> None:
    prompt = 'Reply: {"pairs": ["reasoning"]}\n\nPassage:\none two three\n\nMore'
    assert json.loads(answer_about(prompt).strip("`json\n")) == {
        "pairs": [{"question": "How long is it?", "reasoning": "Count the words.", "answer": "3"}]
    }
