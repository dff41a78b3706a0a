"""Reads YAML that people write: a name that a mapping has twice is an error, where YAML silently keeps the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from megatron_ipt.errors import RecipeError


def read_yaml(path: Path, key: str) -> Any:
    """The content of ``path``.

    Args:
        key: recipe key that names the file, for errors.

    Raises:
        RecipeError: it cannot be read, is not valid, or has a name twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RecipeError(f"{key}: {path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{key}: {path}: not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for name_node, _ in node.value:
            name = repr(self.construct_object(name_node, deep=True)).casefold()
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", name_node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)
