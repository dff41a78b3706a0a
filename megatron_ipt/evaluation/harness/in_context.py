"""Benchmarks of lm-evaluation-harness with demonstrations in groups that all questions of a task share.

The library writes demonstrations into each request. Here a task is asked without any, the text of each demonstration is
made by the task itself, and requests are answered after groups of them. Demonstrations are the same for all questions,
so a task must keep them apart from its test questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.answers import Asked, OptionScore, Search, generate, score_options
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.evaluation.in_context.context import Context
from megatron_ipt.evaluation.in_context.demonstrations import choose, prepare_groups
from megatron_ipt.evaluation.in_context.requirements import refuse_model

_DEFAULT_NEW_TOKENS = 256


class Answerer:
    """Answers requests of the library with one model.

    Args:
        model: of the library (``HFLM``).
        config: what stands before the questions; mode ``concat`` or ``structured``.
        add_bos: whether every group begins with BOS.

    Raises:
        InputError: the model cannot be used so.
    """

    def __init__(self, model: Any, config: InContextConfig, add_bos: bool):
        refuse_model(model.model)
        self._model = model
        self._config = config
        self._head = [model.prefix_token_id] if add_bos else []
        self._demonstrations: dict[str, list[list[int]]] = {}
        self._description: dict[str, list[int]] = {}
        self._delimiter: dict[str, str] = {}
        self.groups: dict[str, dict[str, int]] = {}
        """By task, what stood before its questions."""

    @contextmanager
    def prepared(self, tasks: Sequence[Any]) -> Iterator[None]:
        """While this lasts, ``tasks`` are asked without demonstrations and description; both are kept here.

        Raises:
            InputError: a task has no demonstrations apart from its questions, or too few.
        """
        before = [(task, task.get_config("description"), getattr(task, "sampler", None)) for task in tasks]
        try:
            for task in tasks:
                self._prepare(task)
            yield
        finally:
            for task, description, sampler in before:
                task.set_config(key="description", value=description)
                task.sampler = sampler

    def _prepare(self, task: Any) -> None:
        name = f"benchmark {task.task_name}"
        if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "generate_until"):
            raise InputError(f"{name}: a task of kind {task.OUTPUT_TYPE} cannot have shared demonstrations")
        split = getattr(getattr(task, "fewshot_cfg", None), "split", None)
        if split is None or split == task.get_config("test_split"):
            raise InputError(
                f"{name}: its demonstrations are not kept apart from its test questions (fewshot_split), so they "
                "cannot be the same for all; use a task that keeps them apart, or in_context.mode=none"
            )
        pool = list(task.fewshot_docs())
        description = str(task.get_config("description") or "")
        if "{{" in description:
            raise InputError(f"{name}: its description depends on the question, so it cannot stand before all of them")
        task.set_config(key="description", value="")
        task.set_config(key="num_fewshot", value=0)
        delimiter = str(task.get_config("fewshot_delimiter") or "")
        self._delimiter[task.task_name] = delimiter
        self._description[task.task_name] = self._encode(description) if description else []
        places = choose(self._config.demonstrations, len(pool), self._config.seed, name)
        asked = next(iter(task.test_docs() if task.has_test_docs() else task.validation_docs()))
        bare = _text(task.fewshot_context(asked, 0))
        texts = []
        for place in places:
            task.sampler = _Only(pool[place])
            texts.append(_text(task.fewshot_context(asked, 1)).removesuffix(bare))
        self._demonstrations[task.task_name] = [self._after(delimiter, text) for text in texts]

    def loglikelihood(self, requests: Sequence[Any], label: str) -> list[tuple[float, bool]]:
        """What the library's method of this name returns, in the order of ``requests``."""
        found: list[tuple[float, bool]] = []
        for task, of_task in groupby(requests, key=lambda request: request.task_name):
            asked = []
            for _, same in groupby(of_task, key=lambda request: request.args[0].rstrip()):
                pairs = [self._pair(request.args[0], request.args[1], task) for request in same]
                asked.append(Asked(pairs[0][0], [option for _, option in pairs]))
            deepest = max(len(row.prompt) + max(map(len, row.options)) for row in asked)
            context, queries = self._context(task, max(row.size for row in asked), deepest)
            scores: list[list[OptionScore]] = score_options(context, asked, queries, label)
            found += [(score.log_likelihood, score.greedy) for row in scores for score in row]
        return found

    def generate_until(self, requests: Sequence[Any], label: str) -> list[str]:
        """What the library's method of this name returns, in the order of ``requests``."""
        found: list[str] = []
        for task, of_task in groupby(requests, key=lambda request: request.task_name):
            rows = list(of_task)
            prompts = [self._after(self._delimiter[task], request.args[0]) for request in rows]
            settings = rows[0].args[1]
            if settings.get("do_sample") and settings.get("temperature", 1):
                raise InputError(f"benchmark {task}: its answers are sampled; with shared demonstrations they are not")
            stops = settings.get("until") or []
            stops = [stops] if isinstance(stops, str) else list(stops)
            limit = int(settings.get("max_gen_toks", _DEFAULT_NEW_TOKENS))
            search = Search(
                limit, self._config.beams, self._config.length_penalty,
                partial(_contains, self._model.tokenizer, stops),
                self._model.eot_token_id,
            )  # fmt: skip
            longest = max(map(len, prompts))
            context, _ = self._context(task, longest + limit * search.beams, longest + limit)
            for ids in generate(context, prompts, search, label):
                text = self._model.tokenizer.decode(ids, skip_special_tokens=True)
                ends = [text.index(stop) for stop in stops if stop in text]
                found.append(text[: min(ends)] if ends else text)
        return found

    def _context(self, task: str, longest: int, deepest: int) -> tuple[Context, int]:
        head = [*self._head, *self._description[task]]
        groups, memory = prepare_groups(
            self._model.model, self._config, self._demonstrations[task], head, longest, deepest, f"benchmark {task}"
        )
        self.groups[task] = {
            "demonstrations": len(self._demonstrations[task]),
            "groups": len(groups),
            "tokens": sum(map(len, groups)),
            "longest_group": max(map(len, groups)),
        }
        return Context(self._model.model, groups, memory.queries), memory.queries

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _pair(self, context: str, continuation: str, task: str) -> tuple[list[int], list[int]]:
        """Ids of both; spaces at the end of the prompt belong to the continuation, where words begin with them."""
        prompt = context.rstrip()
        if not prompt:
            raise InputError(f"benchmark {task}: a request has an empty prompt, so nothing follows the demonstrations")
        delimiter = self._delimiter[task]
        ids = self._after(delimiter, prompt)
        return ids, self._after(delimiter, context + continuation)[len(ids) :]

    def _after(self, delimiter: str, text: str) -> list[int]:
        """Ids of ``text`` where it follows ``delimiter``: at the beginning of a text, some tokenizers add a space."""
        before, whole = self._encode(delimiter), self._encode(delimiter + text)
        return whole[len(before) :] if whole[: len(before)] == before else self._encode(text)


class _Only:
    """A sampler of the library that knows one demonstration."""

    def __init__(self, document: Any):
        self._document = document

    def sample(self, *arguments: Any, **options: Any) -> list[Any]:
        return [self._document]


def _contains(tokenizer: Any, stops: Sequence[str], ids: list[int]) -> bool:
    text = tokenizer.decode(ids)
    return any(stop in text for stop in stops)


def _text(context: str | list[str]) -> str:
    """A task in which the options are contexts has one text for each."""
    return context if isinstance(context, str) else context[0]
