"""Custom code: Python files or modules that add to the tables of this package.

A recipe names custom code that it uses once, such as an engine or a reader, directly as ``module:name`` or
``path/to/file.py:name``. Names in tables (model families, presets, readers by suffix, short names of engines) are added
by an *extension*: a file or module that is imported before the recipe is checked and adds rows. Extensions come from
the recipe key ``extensions``, from the environment variable ``MEGATRON_IPT_EXTENSIONS`` (separated like PATH), and
from installed packages with an entry point in the group ``megatron_ipt.extensions``. Child processes load the same
extensions.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from megatron_ipt.errors import RecipeError

VARIABLE = "MEGATRON_IPT_EXTENSIONS"
GROUP = "megatron_ipt.extensions"


def load_extensions(names: Iterable[str], source: str) -> None:
    """Imports every extension in ``names`` once, in this process and in processes that it starts later.

    Args:
        names: modules, or paths that end in ``.py``.
        source: where the names come from, for error messages.

    Raises:
        RecipeError: an extension does not exist or cannot be imported.
    """
    known = [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for name in names:
        import_code(name, source)
        absolute = str(Path(name).resolve()) if _is_file(name) else name
        if absolute not in known:
            known.append(absolute)
    if known:
        os.environ[VARIABLE] = os.pathsep.join(known)


def load_registered_extensions() -> None:
    """Imports the extensions of installed packages and of the environment variable. Every process starts with this.

    Raises:
        RecipeError: an extension does not exist or cannot be imported.
    """
    for entry in entry_points(group=GROUP):
        import_code(entry.value.partition(":")[0], f"entry point {entry.name} of group {GROUP}")
    load_extensions([name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name], VARIABLE)


def load_object(name: str, source: str) -> Any:
    """The object that ``module:name`` or ``path/to/file.py:name`` refers to.

    Args:
        source: the recipe key, for error messages.

    Raises:
        RecipeError: the object does not exist or cannot be imported.
    """
    module_name, _, attribute = name.rpartition(":")
    module = import_code(module_name, source)
    try:
        return getattr(module, attribute)
    except AttributeError:
        defined = ", ".join(found for found, value in vars(module).items() if _defined_in(value, module))
        raise RecipeError(
            f"{source}: {module_name} has no {attribute!r}; it defines {defined or 'no class or function'}"
        ) from None


def own_file(name: str) -> Path | None:
    """The file in ``path/to/file.py:name``, relative to the working directory if inside it; None for a module."""
    path = Path(name.rpartition(":")[0])
    if not _is_file(path.name):
        return None
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def import_code(name: str, source: str) -> ModuleType:
    """Imports module ``name``, or a file if ``name`` ends in ``.py``; a file is executed once per process.

    Raises:
        RecipeError: ``name`` does not exist or cannot be imported.
    """
    if name.startswith(".") and not _is_file(name):
        raise RecipeError(f"{source}: {name}: relative module names are not supported; give the full name or a path")
    try:
        return _import_file(Path(name)) if _is_file(name) else importlib.import_module(name)
    except FileNotFoundError as error:
        raise RecipeError(f"{source}: {name}: no such file (relative to {Path.cwd()})") from error
    except OSError as error:
        raise RecipeError(f"{source}: {name}: cannot be read: {error.strerror}") from error
    except (ImportError, SyntaxError, ValueError) as error:
        hint = "" if _is_file(name) else "; to name a file, give its path, e.g. ./my_extension.py"
        raise RecipeError(f"{source}: {name} cannot be imported: {error}{hint}") from error


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _import_file(path: Path) -> ModuleType:
    path = path.resolve(strict=True)
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    specification = importlib.util.spec_from_file_location(f"megatron_ipt_extension_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Registered before execution, as Python's own import does: dataclasses and pickle look up their module.
    sys.modules[specification.name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[specification.name]
        raise
    return module


def _defined_in(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__
