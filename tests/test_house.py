"""The house: which room may import which, and what there is only one of. Read from the source, nothing is run."""

from __future__ import annotations

import ast
import re
from collections import Counter, deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "megatron_ipt"

SHARED_GROUND = (
    "errors", "seeding", "progress", "files", "locks", "rejects", "parallel", "extensions", "config", "manifest",
    "stages", "tokenizer_readers",
)  # fmt: skip
"""Imported by all, imports no room."""

FLOW = (
    "models",
    "corpus",
    "inference",
    "selection",
    "synthesis",
    "decontamination",
    "augment",
    "tokens",
    "tuning",
    "row_selection",
    "composition",
    "training",
    "convert",
    "evaluation",
    "report",
)
"""Rooms in the order in which a document passes them: each imports rooms before it and the shared ground."""

ABOVE = ("recipe", "pipeline", "api", "comparison", "cluster", "research", "commands", "cli", "__main__")
"""What runs the rooms: each imports everything below it."""

DATA_ROOMS = FLOW[: FLOW.index("training")]
STARTS_LIGHT = (*SHARED_GROUND, *DATA_ROOMS, "recipe", "pipeline", "cluster", "commands", "cli")
HEAVY = (
    "torch", "transformers", "megatron", "transformer_engine", "tensorrt_llm", "vllm", "openai", "lm_eval", "datasets",
    "matplotlib", "jinja2", "safetensors", "tensorboard", "psutil", "faiss",
)  # fmt: skip
"""What only some stages need: imported where it is used, so that the others start without it."""

ONE_PLACE_FOR = {
    # What is done there: the only module, and the modules whose import gives it away.
    "locks": ("locks", ("fcntl",)),
    "suggestions": ("errors", ("difflib",)),
    "progress bars": ("progress", ("rich", "tqdm")),
    "pools of processes": ("parallel", ("concurrent.futures.process",)),
}
MOST_LINES = 500
MOST_MODULES = 16
"""In one folder, side by side."""
ENGINE_TABLE = PACKAGE / "inference" / "engines.py"

_ORDER = {name: rank for rank, name in enumerate((*FLOW, *ABOVE))}
_MODULE = re.compile(r"(megatron_ipt(?:\.\w+)+)(?::\w+)?")


class Import(NamedTuple):
    """One imported name: ``module`` is absolute; ``name`` is empty for ``import module``."""

    module: str
    name: str
    line: int
    deferred: bool
    """In a function, for type checkers, or named as a string: not imported with the module."""
    by_name: bool = False
    """Named as a string: a table that names code is there so that it need not know the code."""

    @property
    def target(self) -> str:
        """The module that is meant, where the name may be a module itself."""
        whole = f"{self.module}.{self.name}"
        return whole if self.name and path_of(whole) else self.module


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(_tree(path), False))


def _imports(node: ast.AST, deferred: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, "", child.lineno, deferred)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{child.lineno}: imports are absolute"
            for alias in child.names:
                yield Import(child.module or "", alias.name, child.lineno, deferred)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            # Tables name code as "module:function", to be imported when it is called.
            match = _MODULE.fullmatch(child.value)
            if match:
                yield Import(match[1], "", child.lineno, True, by_name=True)
        yield from _imports(child, deferred or _defers(child))


def _defers(node: ast.AST) -> bool:
    for_types = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return for_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def room_of(module: str) -> str:
    """``megatron_ipt.tokens.dataset.mix`` -> ``tokens``; the package itself is no room."""
    return module.split(".")[1] if module.startswith("megatron_ipt.") else ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


@cache
def path_of(module: str) -> Path | None:
    """File of a module of this package; None for others'."""
    if not module.startswith("megatron_ipt"):
        return None
    place = REPOSITORY / module.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(REPOSITORY)}:{line}"


def test_every_room_has_its_place_in_the_table() -> None:
    names = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    names = {name for name in names if not name.startswith("__") or name == "__main__"}
    assert names == {*SHARED_GROUND, *FLOW, *ABOVE}


def test_a_room_imports_only_what_lies_before_it() -> None:
    upward = []
    for path in modules("megatron_ipt"):
        here = room_of(module_of(path))
        for found in imports(path):
            there = room_of(found.target)
            if not there or there == here or there in SHARED_GROUND:
                continue
            # The table names engines of later rooms, too, for stages that come after those: nothing here loads them.
            if path == ENGINE_TABLE and found.deferred:
                continue
            # ``import megatron_ipt`` offers the API, which is loaded when it is used.
            if not here and there == "api" and found.deferred:
                continue
            if here not in _ORDER or _ORDER[there] > _ORDER[here]:
                upward.append(f"{where(path, found.line)}: {here or 'the package'} imports {there}")
    assert not upward, "\n".join(upward)


def test_no_module_imports_itself_through_others() -> None:
    """Deferred imports count: a cycle that is cut by one is still a cycle for the reader."""
    # The package itself is left out: it only offers names of modules below it.
    graph = {module_of(path): _imported_by(path) for path in modules("megatron_ipt")}
    del graph["megatron_ipt"]
    cycles = [" -> ".join([*cycle, cycle[0]]) for cycle in _cycles(graph)]
    assert not cycles, "\n".join(cycles)


def _imported_by(path: Path) -> set[str]:
    return {module_of(target) for found in imports(path) if not found.by_name and (target := path_of(found.target))}


def _cycles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """A shortest cycle through every node that lies on one; each cycle once."""
    seen: set[frozenset[str]] = set()
    for start in sorted(graph):
        came_from = {start: ""}
        waiting = deque([start])
        while waiting:
            here = waiting.popleft()
            if here != start and start in graph[here]:
                cycle = [here]
                while cycle[0] != start:
                    cycle.insert(0, came_from[cycle[0]])
                if frozenset(cycle) not in seen:
                    seen.add(frozenset(cycle))
                    yield cycle
                break
            for there in sorted(graph[here] & graph.keys() - came_from.keys()):
                came_from[there] = here
                waiting.append(there)


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "a"}, "c": {"d"}, "d": {"c"}, "e": {"a"}}
    assert [sorted(cycle) for cycle in _cycles(graph)] == [["a", "b"], ["c", "d"]]


def test_the_recipe_takes_only_settings_and_descriptions_of_a_room() -> None:
    taken = {found.target for found in imports(PACKAGE / "recipe.py") if room_of(found.target) in FLOW}
    assert taken and all(module.endswith((".config", ".description")) for module in taken), taken


def test_private_names_stay_in_their_room() -> None:
    taken = []
    for path in modules("megatron_ipt", "tools"):
        here = room_of(module_of(path)) if path.is_relative_to(PACKAGE) else "tools"
        # A module of the shared ground is a room by itself.
        others = {
            (found.name or found.module).rpartition(".")[2]: found.target
            for found in imports(path)
            if room_of(found.target) not in ("", here)
        }
        for found in imports(path):
            private = any(
                part.startswith("_") and not part.startswith("__") for part in (found.name, *found.module.split("."))
            )
            if private and room_of(found.target) not in ("", here):
                taken.append(f"{where(path, found.line)}: {found.module}.{found.name}")
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in others:
                is_module = others[node.value.id].endswith(f".{node.value.id}")
                if is_module and node.attr.startswith("_") and not node.attr.startswith("__"):
                    taken.append(f"{where(path, node.lineno)}: {node.value.id}.{node.attr}")
    assert not taken, "\n".join(taken)


def test_what_runs_stages_imports_none_of_them() -> None:
    """Pipeline, command line and cluster read descriptions; a hook is named as a string."""
    reading = [
        f"{where(path, found.line)}: imports {found.target}"
        for path in modules("megatron_ipt")
        if room_of(module_of(path)) in ("pipeline", "cluster", "cli") and path.name not in AROUND_RANKS
        for found in imports(path)
        if room_of(found.target) in {stage.room for stage in stages()} and not found.by_name
    ]
    assert not reading, "\n".join(reading)


AROUND_RANKS = ("training_job.py", "rank_group.py", "watched_rank.py")
"""The processes around the ranks of a training on a cluster: the counterpart of its room for several nodes."""


class Described(NamedTuple):
    """A stage as its room describes it."""

    room: str
    name: str
    command: str


@cache
def stages() -> tuple[Described, ...]:
    """Every stage of the package, from the descriptions of the rooms."""
    found = []
    for room in FLOW:
        path = PACKAGE / room / "description.py"
        for node in ast.walk(_tree(path)) if path.exists() else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Stage":
                said = {
                    word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg in ("name", "command")
                }
                found.append(Described(room, **said))
    return tuple(found)


ORDINARY = {
    "tokens": "a count, and what a model reads",
    "train": "a split, an extra, a kind of tokenizer",
    "score": "what an engine does, and what it returns",
}
"""Words that are also names or commands of stages: looked for only where a stage is meant."""

MAY_NAME = {
    ("corpus/stage.py", "synthesis"): "the folder of documents that get pairs, see stages.DOCUMENTS",
    ("tokens/stage.py", "synthesis"): "that folder",
    ("evaluation/judge/read.py", "synthesis"): "that folder",
    ("cluster/watch/training_job.py", "training"): "the process around this stage on a cluster",
    ("training/ranks/job.py", "report"): "the folder in which ranks report to the launcher",
    ("comparison/runs.py", "training"): "compare trains recipes, and shows their steps",
}
"""(module, name of a stage): why it may stand there. recipe.py, the table of contents, is left out altogether."""

_ASKS_FOR_STAGE = (
    "counts", "settings", "stage_named", "stage_of", "getattr", "setattr", "hasattr", "section_of", "context_of",
)  # fmt: skip
_BY_STAGE = ("manifests", "inputs", "folders", "sections", "stages", "makers", "sizes")
_STAGE_ITSELF = ("stage", "name", "command")
_RECIPES = ("recipe", "section", "sections", "loaded")


def test_no_stage_is_named_outside_its_room() -> None:
    wrong = []
    for path in modules("megatron_ipt"):
        module = path.relative_to(PACKAGE).as_posix()
        room = room_of(module_of(path))
        if module == "recipe.py":
            continue
        for line, name in named_stages(_tree(path)):
            owners = [stage.room for stage in stages() if name in (stage.name, stage.command)]
            if room not in owners and (module, name) not in MAY_NAME:
                wrong.append(f"{where(path, line)}: {name!r} is a stage of room {owners[0]}")
    assert not wrong, "\n".join(wrong)


def named_stages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name or command) of every place that means a stage of this package by its name.

    A string that is one is such a place, wherever it stands. An ordinary word is one as part of a path, compared with a
    stage, in a table beside another stage's name, as key of something that is kept by stage, or as argument of a
    function that takes a stage's name; and every name is one as attribute of a recipe.
    """
    names = {name for stage in stages() for name in (stage.name, stage.command)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names - ORDINARY.keys():
            yield node.lineno, node.value
        elif isinstance(node, ast.Attribute) and node.attr in names and _last_word(node.value) in _RECIPES:
            yield node.lineno, node.attr
        else:
            for word in _meant(node, names):
                if word.value in ORDINARY:
                    yield word.lineno, word.value


def _meant(node: ast.AST, names: set[str]) -> Iterator[ast.Constant]:
    """Names of stages that stand where only a stage can be meant."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        # A command is no folder.
        yield from (word for word in _words(node.right) if word.value in {stage.name for stage in stages()})
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(_last_word(side) in _STAGE_ITSELF and not isinstance(side, ast.Constant) for side in sides):
            yield from (word for side in sides for word in _words(side) if word.value in names)
    elif isinstance(node, ast.Subscript) and _last_word(node.value) in _BY_STAGE:
        yield from (word for word in _words(node.slice) if word.value in names)
    elif isinstance(node, ast.Call):
        function = _last_word(node.func)
        of_table = function in ("get", "pop", "setdefault") and isinstance(node.func, ast.Attribute)
        if function in _ASKS_FOR_STAGE or (of_table and _last_word(node.func.value) in _BY_STAGE):  # type: ignore[attr-defined]
            yield from (word for argument in node.args for word in _words(argument) if word.value in names)
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
        entries = node.keys if isinstance(node, ast.Dict) else node.elts
        words = [word for entry in entries if entry is not None for word in _words(entry) if word.value in names]
        if any(word.value not in ORDINARY for word in words):
            yield from words


def _words(node: ast.AST) -> Iterator[ast.Constant]:
    """The string that ``node`` is, or the strings of a list or tuple."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        for entry in node.elts:
            yield from _words(entry)


def _last_word(node: ast.AST) -> str:
    """``a.b.c`` -> ``c``; empty for what is not a name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("output / 'training' / 'x'", ["training"]),
        ("root / 'tokens'", ["tokens"]),
        ("if stage.name == 'tokens': pass", ["tokens"]),
        ("if name in ('tokens', 'corpus'): pass", ["corpus", "tokens"]),
        ("SIZES = {'synthesis': 1, 'tokens': 2}", ["synthesis", "tokens"]),
        ("FLOW = ('corpus', 'tokens')", ["corpus", "tokens"]),
        ("run.counts('tokens')", ["tokens"]),
        ("stage_named('train')", ["train"]),
        ("getattr(recipe, 'tokens')", ["tokens"]),
        ("manifests['tokens'], folders.get('tokens')", ["tokens"]),
        ("run.recipe.tokens.tokenizer, recipe.augment", ["augment", "tokens"]),
        ("x = 'tuning-data'", ["tuning-data"]),
        # Ordinary words.
        ("counts['tokens'], row.get('tokens'), {'tokens': 1}, ('steps', 'tokens')", []),
        ("SPLITS = ('train', 'valid', 'test')", []),
        ("if split != 'train' or kind == 'train': pass", []),
        ("folder / 'train', dataset['train'], self.tokens, shape.training", []),
        ("'the corpus stage', f'{name}: tokens'", []),
    ],
)
def test_names_of_stages_are_distinguished_from_ordinary_words(source: str, found: list[str]) -> None:
    assert sorted({name for _, name in named_stages(ast.parse(source))}) == found


def test_stages_are_read_from_the_descriptions() -> None:
    assert {stage.name for stage in stages()} >= {"corpus", "tokens", "training", "report"}
    assert {stage.command for stage in stages()} >= {"synthesize", "tokenize", "train", "evaluate", "tuning-data"}


def _loaded_with(module: str) -> dict[str, str]:
    """Every module that comes with ``module``, ours and others', and which module asked for it."""
    loaded = {module: ""}
    waiting = [module]
    while waiting:
        here = waiting.pop()
        path = path_of(here)
        if path is None:
            continue
        for found in imports(path):
            parts = found.target.split(".")
            for name in (".".join(parts[: i + 1]) for i in range(len(parts))):
                if not found.deferred and name not in loaded:
                    loaded[name] = here
                    waiting.append(name)
    return loaded


def test_data_rooms_and_commands_start_without_heavy_libraries() -> None:
    slow = []
    for path in modules("megatron_ipt"):
        # The process of a rank and the code of one engine are started where their libraries are.
        if room_of(module_of(path)) not in STARTS_LIGHT:
            continue
        loaded = _loaded_with(module_of(path))
        slow += [f"{module_of(path)}: {name} by {by}" for name, by in loaded.items() if name in HEAVY]
    assert not slow, "\n".join(slow)


def test_the_page_is_made_without_the_libraries_of_other_stages() -> None:
    slow = []
    for path in PACKAGE.glob("*/report.py"):
        loaded = _loaded_with(module_of(path))
        slow += [f"{module_of(path)}: {name} by {by}" for name, by in loaded.items() if name in HEAVY]
    assert not slow, "\n".join(slow)


@pytest.mark.parametrize("what", ONE_PLACE_FOR)
def test_there_is_one_place_for(what: str) -> None:
    place, telling = ONE_PLACE_FOR[what]
    others = [
        where(path, found.line)
        for path in modules("megatron_ipt")
        for found in imports(path)
        if within(found.module, telling) and room_of(module_of(path)) != place
    ]
    assert not others, f"{what} are a matter of {place}.py: {', '.join(others)}"


def test_only_files_renames() -> None:
    """A finished file gets its name in one place, :func:`megatron_ipt.files.put_in_place`."""
    others = [where(path, line) for path in modules("megatron_ipt") for line in _renames(_tree(path))]
    # Old checkpoints are renamed before a thread deletes them: what is half deleted must not bear a checkpoint's name.
    known = ("megatron_ipt/files.py:", "megatron_ipt/training/checkpoints/checkpoint.py:")
    assert all(place.startswith(known) for place in others), others
    assert others


def _renames(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # str.replace takes two arguments or more, Path.replace one.
            by_path = node.func.attr == "rename" or (
                node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
            )
            of_system = ast.unparse(node.func) in ("os.rename", "os.replace", "os.renames", "shutil.move")
            if by_path or of_system:
                yield node.lineno


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in modules("megatron_ipt", "tools", "tests")}
    assert not {str(path.relative_to(REPOSITORY)): lines for path, lines in lengths.items() if lines > MOST_LINES}


def test_no_folder_holds_too_many_modules() -> None:
    counts = Counter(path.parent for path in modules("megatron_ipt") if path.name != "__init__.py")
    crowded = {str(folder.relative_to(REPOSITORY)): n for folder, n in counts.items() if n > MOST_MODULES}
    assert not crowded


def test_every_module_says_why() -> None:
    silent = [path for path in modules("megatron_ipt", "tools") if not ast.get_docstring(_tree(path))]
    assert not silent


def test_the_tests_mirror_the_rooms() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"commands"}
    assert rooms <= {path.parent.name for path in (REPOSITORY / "tests").glob("*/__init__.py")}
