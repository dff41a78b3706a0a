"""The house: which room may import which, and what there is only one of. Read from the source, nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "megatron_ipt"

SHARED_GROUND = (
    "errors", "seeding", "progress", "files", "locks", "rejects", "parallel", "extensions", "config", "manifest",
    "stages", "page", "readable", "tokenizer_readers",
)  # fmt: skip
"""Imported by all, imports no room."""

FLOW = (
    "models",
    "corpus",
    "inference",
    "synthesis",
    "augment",
    "tokens",
    "tuning",
    "training",
    "convert",
    "evaluation",
    "report",
)
"""Rooms in the order in which a document passes them: each imports rooms before it and the shared ground."""

ABOVE = ("recipe", "pipeline", "comparison", "cluster", "commands", "cli", "__main__")
"""What runs the rooms: each imports everything below it."""

DATA_ROOMS = ("models", "corpus", "inference", "synthesis", "augment", "tokens", "tuning")
STARTS_LIGHT = (*SHARED_GROUND, *DATA_ROOMS, "recipe", "pipeline", "cluster", "commands", "cli")
HEAVY = (
    "torch", "transformers", "megatron", "transformer_engine", "tensorrt_llm", "vllm", "openai", "lm_eval", "datasets",
    "matplotlib", "jinja2", "safetensors", "tensorboard", "psutil",
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

_ORDER = {name: rank for rank, name in enumerate((*FLOW, *ABOVE))}
_MODULE = re.compile(r"(megatron_ipt(?:\.\w+)+)(?::\w+)?")


class Import(NamedTuple):
    """One imported name: ``module`` is absolute; ``name`` is empty for ``import module``."""

    module: str
    name: str
    line: int
    deferred: bool
    """In a function, for type checkers, or named as a string: not imported with the module."""

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
                yield Import(match[1], "", child.lineno, True)
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
            if here not in _ORDER or _ORDER[there] > _ORDER[here]:
                upward.append(f"{where(path, found.line)}: {here or 'the package'} imports {there}")
    assert not upward, "\n".join(upward)


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


def test_every_module_says_why() -> None:
    silent = [path for path in modules("megatron_ipt", "tools") if not ast.get_docstring(_tree(path))]
    assert not silent


def test_the_tests_mirror_the_rooms() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"commands"}
    assert rooms <= {path.parent.name for path in (REPOSITORY / "tests").glob("*/__init__.py")}
