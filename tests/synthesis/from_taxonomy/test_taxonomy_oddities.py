"""Odd things that models, servers and settings do to a taxonomy: what is asked, what is lost, and what is said."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import NoPairsError, RecipeError, StageError
from megatron_ipt.files import read_jsonl
from megatron_ipt.inference.engine import Completion, Request, RequestRefused
from megatron_ipt.manifest import StageContext
from megatron_ipt.seeding import derive
from megatron_ipt.synthesis.from_taxonomy import stage
from megatron_ipt.synthesis.from_taxonomy.asking import SESSIONS
from tests.synthesis.from_taxonomy.teacher import last_user_message
from tests.synthesis.from_taxonomy.test_taxonomy_stage import ASKED, Configure, Recording, content

HERE = "tests.synthesis.from_taxonomy.test_taxonomy_oddities"
USELESS = "tests.synthesis.from_taxonomy.test_taxonomy_stage:Useless"


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    ASKED.clear()


class Sums(Recording):
    """Concepts whose names, joined, look like others, and one that is called like an answer."""

    def answer(self, request: Request) -> str:
        if "Convert the sessions" in last_user_message(request.prompt.text):
            names = ["sine", "cosine", "sine + cosine", "sine >> answer", "question"]
            return json.dumps({"session": "Sums", "concepts": names})
        return super().answer(request)

    async def generate(self, request: Request) -> Completion:
        await asyncio.sleep(0)
        return await super().generate(request)


def test_no_two_calls_have_one_id(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(engine=f"{HERE}:Sums", questions_per_subject=100), context)
    assert summary["draws"] == 6 * 31
    ids = [node["id"] for node in read_jsonl(context.directory / stage.TREE)]
    assert len(set(ids)) == len(ids)
    assert len(ASKED) == len(ids) - 3 - 6


class OtherList(Recording):
    """Refuses the first list of Bookbinding; its second has other subtopics."""

    async def generate(self, request: Request) -> Completion:
        if f"{request.seed}" == FIRST_LIST:
            raise RequestRefused("400: not now")
        return await Recording.generate(self, request)

    def answer(self, request: Request) -> str:
        text = super().answer(request)
        first = f"drawn with {FIRST_LIST}" in request.prompt.text
        return text.replace('["a", "b"]', '["first"]' if first else '["second"]')


FIRST_LIST = str(derive(7, "taxonomy", "Crafts > Hands > Bookbinding >> list 1") % (1 << 31))


def test_what_grew_from_another_list_is_asked_anew(configure: Configure, tmp_path: Path) -> None:
    """After the refused list is asked again, its subtopics count, as in a run in which nothing was refused."""
    whole, refused = (StageContext("taxonomy", tmp_path / name, 7) for name in ("whole", "refused"))
    config = configure(engine=f"{HERE}:OtherList")
    assert stage.run(config, refused)["refused_calls"] == 1
    stage.reopen_refused(config, refused)
    never, OtherList.generate = OtherList.generate, Recording.generate  # type: ignore[method-assign]
    try:
        stage.run(config, refused)
        stage.run(config, whole)
    finally:
        OtherList.generate = never  # type: ignore[method-assign]
    assert content(refused.directory) == content(whole.directory)


class Wordy(Recording):
    """Writes syllabi that do not fit the context."""

    def answer(self, request: Request) -> str:
        text = super().answer(request)
        return f"{text} {'more ' * 3000}" if "Write a syllabus" in last_user_message(request.prompt.text) else text


def test_what_does_not_fit_the_context_is_not_asked_and_said(configure: Configure, context: StageContext) -> None:
    sizes = {"generation.context_length": 2600, "generation.max_new_tokens": 800}
    config = configure(engine=f"{HERE}:Wordy", **sizes, **{"answers.generation.max_new_tokens": 100})
    with pytest.raises(NoPairsError) as error:
        stage.run(config, context)
    assert "sessions: prompt longer than the context (6)" in str(error.value)
    assert "Raise taxonomy.generation.context_length" in str(error.value)
    summary = stage.summary_of(config, context)
    assert summary["refused_calls"] == 0 and summary["calls"][SESSIONS]["unasked"] == 6
    assert len(ASKED) == 6 + 6 + 6


def test_greedy_conversions_are_tried_once(configure: Configure, context: StageContext) -> None:
    config = configure(engine=USELESS, **{"generation.temperature": 0})
    with pytest.raises(NoPairsError, match=r"subjects: no usable JSON \(6\)"):
        stage.run(config, context)
    assert len(ASKED) == 12


def test_everything_is_refused(configure: Configure, context: StageContext) -> None:
    config = configure(engine=f"{HERE}:RefusesAll", **{"generation.max_refused_share": 1})
    with pytest.raises(NoPairsError, match="Fix the cause and rerun: only what was refused is asked"):
        stage.run(config, context)


class RefusesAll(Recording):
    async def generate(self, request: Request) -> Completion:
        raise RequestRefused("402: no money left")


def test_none_may_be_refused(configure: Configure, context: StageContext) -> None:
    config = configure(engine=f"{HERE}:RefusesAll", **{"generation.max_refused_share": 0})
    with pytest.raises(StageError, match=r"refused 1 of 1 requests, .* the last with: 402: no money left"):
        stage.run(config, context)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"answers.generation.context_length": 99999}, "answers.generation.context_length"),
        ({"answers.openai.timeout": 3}, "answers.openai"),
        ({"answers.generation.model": "x"}, "answers.generation.model"),
        ({"answers.price.input": 1, "answers.price.output": 1}, "answers.price"),
        (
            {"engine": "openai", "openai.server": "transformers-serve", "generation.temperature": 0},
            "answers.generation",
        ),
        ({"engine": "megatron"}, "engine"),
        ({"generation.model": ""}, "generation.model"),
        ({"valid_share": 0.6, "test_share": 0.4}, "valid_share"),
    ],
)
def test_settings_that_do_nothing_or_cannot_work(configure: Configure, overrides: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError) as error:
        configure(**overrides)
    assert any(line.strip().startswith(key) for line in str(error.value).splitlines()), str(error.value)


class Copying(Recording):
    """Converts to the examples of the prompt, and to one session of its own."""

    def answer(self, request: Request) -> str:
        if "Convert the sessions" in last_user_message(request.prompt.text):
            return (
                '{"session": "Title of the session", "concepts": ["first key concept"]}\n'
                '{"session": "Own", "concepts": ["a"]}'
            )
        return super().answer(request)


def test_examples_of_the_prompt_are_no_answers(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(engine=f"{HERE}:Copying"), context)
    assert (summary["sessions"], summary["draws"]) == (6, 6)
    assert summary["unusable_objects"] == {"copied from the prompt": 6}
