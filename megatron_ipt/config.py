"""Typed recipe sections: declared as dataclasses, merged from YAML and the command line, and checked as a whole.

Every stage declares its own section with :func:`key` beside its code; ``recipe.py`` composes them. OmegaConf does the
merging, interpolation and type conversion. What it does not do is here: unknown keys are all reported at once with the
nearest valid name, values are held against choices and bounds, and a section may refuse combinations by yielding
``(key, message)`` from a ``problems`` method.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from megatron_ipt.errors import RecipeError, did_you_mean

T = TypeVar("T")

REQUIRED: Any = "???"
"""Default of a key that has none (OmegaConf's mark of a missing value)."""


def key(
    default: Any,
    help: str,
    *,
    choices: Collection[Any] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    affects_output: bool = True,
) -> Any:
    """A field of a recipe section.

    Args:
        default: value when the recipe is silent; ``REQUIRED`` if it must speak. Lists, dicts and section classes are
            copied or called for every recipe.
        help: one or two sentences, with the unit.
        choices: the only values allowed; a table that extensions add to is given itself.
        minimum, maximum: inclusive bounds of a number.
        affects_output: False for keys (workers, log interval) that may change without making finished output stale.
    """
    metadata = {
        "help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "affects_output": affects_output,
    }  # fmt: skip
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


Source = str | Path | Mapping[str, Any] | None
"""A YAML file, or what one would say as nested mappings; None for nothing."""


def load(
    section: type[T] | Callable[[], type[T]],
    source: Source,
    overrides: tuple[str, ...] | list[str] = (),
    prepare: Callable[[list[DictConfig]], None] | None = None,
) -> T:
    """Builds ``section`` from a YAML file or a mapping and ``key=value`` overrides, later ones winning.

    Args:
        section: the dataclass, or a function that returns it, called after ``prepare``.
        prepare: may change what was read (the file, then the overrides) before it is checked.

    ``${other.key}`` refers to another key, ``${oc.env:NAME}`` to an environment variable and ``${recipe_dir:}`` to the
    folder of the YAML file.

    Raises:
        RecipeError: lists every unknown key, wrong type, value out of range and impossible combination found.
    """
    parts = read_parts(source, overrides)
    if prepare is not None:
        prepare(parts)
    return _build(section if isinstance(section, type) else section(), parts, "")


def from_mapping(section: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Builds ``section`` from plain values, for settings whose declaration is only known once others are read.

    Args:
        prefix: of the keys in errors, e.g. ``training.objectives.kl.options.``.

    Raises:
        RecipeError: as :func:`load`.
    """
    return _build(section, [_from_mapping(values)], prefix)


def _build(section: type[T], parts: list[DictConfig], prefix: str) -> T:
    unknown = [problem for part in parts for problem in _unknown_keys(section, part, prefix)]
    if unknown:
        raise RecipeError("\n".join(unknown))
    merged = OmegaConf.structured(section)
    try:
        for part in parts:
            _wrap_single_values(section, part)
            merged = OmegaConf.merge(merged, part)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise RecipeError("\n".join(f"{prefix}{name}: required, but not set" for name in missing))
        value = typing.cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        name = f"{prefix}{error.full_key}" if error.full_key else prefix.rstrip(".") or "recipe"
        raise RecipeError(f"{name}: {str(error.msg or error).splitlines()[0]}") from error
    problems = [f"{name}: {message}" for name, message in _problems(value, prefix)]
    if problems:
        raise RecipeError("\n".join(problems))
    return value


def read_parts(source: Source, overrides: tuple[str, ...] | list[str] = ()) -> list[DictConfig]:
    """What a YAML file or a mapping and overrides say, unchecked, in the order in which they are merged.

    Raises:
        RecipeError: the file or an override cannot be read as YAML.
    """
    folder = str(Path(source).parent) if isinstance(source, (str, Path)) else "."
    OmegaConf.register_resolver("recipe_dir", lambda: folder, replace=True, annotation_validation="off")
    if source is None:
        parts = []
    elif isinstance(source, Mapping):
        parts = [_from_mapping(source)]
    else:
        parts = [_read_yaml(Path(source))]
    return [*parts, _read_overrides(overrides)]


def _from_mapping(values: Mapping[str, Any]) -> DictConfig:
    try:
        return OmegaConf.create(_without_paths(values))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise RecipeError(f"{getattr(error, 'full_key', None) or 'recipe'}: {str(error).splitlines()[0]}") from error


def _without_paths(value: Any) -> Any:
    """Paths and sequences of Python as a recipe writes them; sections that are built already, as mappings."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = as_dict(value)
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(item) for item in value]
    return value


def as_dict(value: Any, only_output: bool = False) -> dict[str, Any]:
    """Settings of a section as plain values; ``only_output`` leaves out keys that do not affect the output."""
    result = {}
    for field in dataclasses.fields(value):
        if only_output and not field.metadata.get("affects_output", True):
            continue
        result[field.name] = _plain(getattr(value, field.name), only_output)
    return result


def describe(section: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key of ``section`` as (path, type, default, help): the reference of a recipe."""
    for field, annotation in _fields(section):
        path = f"{prefix}{field.name}"
        nested = _section_of(annotation)
        if nested is not None and not _is_mapping(annotation):
            yield from describe(nested, f"{path}.")
            continue
        default = field.default if field.default is not dataclasses.MISSING else _default_of(field)
        default_text = "required" if default == REQUIRED else "" if default is None else str(default)
        choices = field.metadata.get("choices")
        kind = " | ".join(map(str, choices)) if choices else _type_name(annotation)
        yield path, kind, default_text, field.metadata.get("help", "")
        if nested is not None:
            yield from describe(nested, f"{path}.NAME.")


def _plain(value: Any, only_output: bool) -> Any:
    if dataclasses.is_dataclass(value):
        return as_dict(value, only_output)
    if isinstance(value, dict):
        return {name: _plain(item, only_output) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, only_output) for item in value]
    return value


def _read_yaml(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except OSError as error:
        raise RecipeError(f"{path}: recipe cannot be read: {error.strerror or error}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, found {type(loaded).__name__}")
    return loaded


def _read_overrides(overrides: tuple[str, ...] | list[str]) -> DictConfig:
    for override in overrides:
        if "=" not in override:
            raise RecipeError(f"{override!r}: expected key=value, e.g. training.steps=100")
        try:
            OmegaConf.from_dotlist([override])
        except (YAMLError, OmegaConfBaseException) as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise RecipeError(f"{override}: cannot be read as YAML: {problem}") from error
    return OmegaConf.from_dotlist(list(overrides))


def _fields(section: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    annotations = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        yield field, annotations[field.name]


def _is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def _section_of(annotation: Any) -> type | None:
    """The dataclass in ``Section``, ``Section | None`` or ``dict[str, Section]``."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation)) if not typing.get_args(annotation) else str(annotation)


def _unknown_keys(section: type, part: DictConfig, prefix: str) -> Iterator[str]:
    known = {field.name: annotation for field, annotation in _fields(section)}
    for name in map(str, part):
        path = f"{prefix}{name}"
        if name not in known:
            below = {row[0].rpartition(".")[2]: row[0] for row in describe(section, prefix) if ".NAME." not in row[0]}
            hint = did_you_mean(str(name), known, prefix) or (f" Did you mean {below[name]}?" if name in below else "")
            where = prefix.rstrip(".") or "the recipe"
            yield f"{path}: unknown key.{hint} Valid in {where}: {', '.join(known) or 'no key'}"
            continue
        nested = _section_of(known[name])
        value = part._get_node(name)
        if nested is None or value is None or value._is_interpolation():
            continue
        if not isinstance(value, DictConfig) or value._is_none():
            yield f"{path}: expected keys below it, found {part[name]!r}"
            continue
        if _is_mapping(known[name]):
            for entry in map(str, value):
                item = value._get_node(entry)
                if isinstance(item, DictConfig) and not item._is_none():
                    yield from _unknown_keys(nested, item, f"{path}.{entry}.")
                elif isinstance(item, ListConfig):
                    yield f"{path}.{entry}: expected keys below it, found {value[entry]!r}"
        else:
            yield from _unknown_keys(nested, value, f"{path}.")


def _wrap_single_values(section: type, part: DictConfig) -> None:
    """Lets ``inputs=texts/`` stand for ``inputs=[texts/]`` wherever a key takes a list."""
    for field, annotation in _fields(section):
        value = part._get_node(field.name) if field.name in part else None
        if value is None or value._is_none() or value._is_interpolation():
            continue
        nested = _section_of(annotation)
        if typing.get_origin(annotation) is list and not OmegaConf.is_config(value):
            part[field.name] = [part[field.name]]
        elif nested is not None and isinstance(value, DictConfig) and not _is_mapping(annotation):
            _wrap_single_values(nested, value)
        elif nested is not None and isinstance(value, DictConfig):
            for entry in value:
                item = value._get_node(entry)
                if isinstance(item, DictConfig) and not item._is_none():
                    _wrap_single_values(nested, item)


def _problems(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(value):
        path = f"{prefix}{field.name}"
        item = getattr(value, field.name)
        yield from _out_of_range(path, item, field.metadata)
        if dataclasses.is_dataclass(item):
            yield from _problems(item, f"{path}.")
        elif isinstance(item, dict):
            for name, entry in item.items():
                if dataclasses.is_dataclass(entry):
                    yield from _problems(entry, f"{path}.{name}.")
    if hasattr(value, "problems"):
        for name, message in value.problems():
            yield f"{prefix}{name}", message


def _out_of_range(path: str, item: Any, metadata: Any) -> Iterator[tuple[str, str]]:
    choices, minimum, maximum = (metadata.get(name) for name in ("choices", "minimum", "maximum"))
    for entry in item if isinstance(item, list) else [item]:
        if choices and entry not in choices and entry is not None:
            yield path, f"{entry!r} is not one of {', '.join(map(str, choices))}.{did_you_mean(str(entry), choices)}"
        if isinstance(entry, (int, float)) and not isinstance(entry, bool):
            if minimum is not None and not entry >= minimum:
                yield path, f"{entry} is below the least allowed value {minimum:g}"
            if maximum is not None and not entry <= maximum:
                yield path, f"{entry} is above the greatest allowed value {maximum:g}"
