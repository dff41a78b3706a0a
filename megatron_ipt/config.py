"""Typed recipe sections: declared as dataclasses, merged from YAML and the command line, and checked as a whole.

Every stage declares its own section with :func:`key` next to its code; ``recipe.py`` composes them. OmegaConf does the
merging, interpolation and type conversion. What it does not do is here: unknown keys and values of the wrong type are
all reported at once, with the closest valid name; values are checked against choices and bounds; and a section may
refuse combinations by yielding ``(key, message)`` from a ``problems`` method, which is called once its values are valid
by themselves. Nothing that a recipe or an override says may end in a traceback.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from megatron_ipt.errors import RecipeError, did_you_mean

T = TypeVar("T")

REQUIRED: Any = "???"
"""Default of a key that has none (OmegaConf's mark of a missing value)."""

UNREADABLE = (
    YAMLError, OmegaConfBaseException, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
"""What PyYAML and OmegaConf raise for input they cannot use: the code behind tags such as ``!!int`` and behind
interpolations lets Python's own errors through."""

_NODES: dict[type, tuple[type[Any], str]] = {
    bool: (BooleanNode, "true or false"),
    int: (IntegerNode, "a whole number"),
    float: (FloatNode, "a number"),
    str: (StringNode, "text"),
}
"""What converts a scalar to the type of its key, and the name of that type in messages."""

_INTEGER_BITS = 64
"""What JSON readers, array types and Slurm can hold."""


def key(
    default: Any,
    help: str,
    *,
    choices: Collection[Any] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    affects_output: bool = True,
    either: tuple[Any, ...] = (),
) -> Any:
    """A field of a recipe section.

    Args:
        default: value where the recipe does not set the key; ``REQUIRED`` if it must. Lists, dicts and section classes
            are copied or called for every recipe.
        help: one or two sentences, with the unit.
        choices: the only values allowed; pass a table that extensions add to itself, not its names.
        minimum, maximum: inclusive bounds of a number.
        affects_output: False for keys (workers, log interval) that can change without making finished output stale.
        either: the types of a key that takes more than one, a scalar first, e.g. ``(str, dict[str, float])``. Its
            annotation is ``Any``, because OmegaConf has no unions with mappings.
    """
    metadata = {
        "help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "affects_output": affects_output,
        "either": either,
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
    _refuse([problem for part in parts for problem in _misfits(section, part, prefix)])
    merged: Any = schema(typing.cast(Any, section))
    try:
        for part in parts:
            _wrap_single_values(section, part)
            merged = OmegaConf.merge(merged, part)
    except UNREADABLE as error:
        raise RecipeError(f"{_full_key(error, prefix)}: {_first_line(error)}") from error
    _refuse(list(_unresolved(merged, prefix.rstrip("."))))
    try:
        value = typing.cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise RecipeError(f"{_full_key(error, prefix)}: {_first_line(error)}") from error
    check(value, prefix)
    return value


def check(value: Any, prefix: str = "") -> None:
    """Checks a section that is built: bounds, choices, and what its ``problems`` says.

    Raises:
        RecipeError: lists everything that is wrong.
    """
    invalid, impossible = _problems(value, prefix)
    _refuse([f"{name}: {message}" for name, message in (*invalid, *impossible)])


@lru_cache(maxsize=16)
def schema(section: type) -> DictConfig:
    """``section`` with its defaults; half of the work of :func:`load`. Merging copies it."""
    return typing.cast(DictConfig, OmegaConf.structured(section))


def _full_key(error: BaseException, prefix: str) -> str:
    key = getattr(error, "full_key", None)
    return f"{prefix}{key}" if key else prefix.rstrip(".") or "recipe"


def _refuse(problems: list[str]) -> None:
    if problems:
        raise RecipeError("\n".join(problems))


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
    except UNREADABLE as error:
        raise RecipeError(f"{_full_key(error, '')}: {_first_line(error)}") from error


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
    """Every key of ``section`` as (path, type, default, help), the reference documentation of a recipe."""
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
    except UNREADABLE as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, found {type(loaded).__name__}")
    return loaded


def _read_overrides(overrides: tuple[str, ...] | list[str]) -> DictConfig:
    merged = OmegaConf.create()
    for override in overrides:
        if "=" not in override:
            raise RecipeError(f"{override!r}: expected key=value, e.g. training.steps=100")
        try:
            merged.merge_with_dotlist([override])
        except UNREADABLE as error:
            raise RecipeError(f"{_printable(override)}: cannot be read as YAML: {_first_line(error)}") from error
    return merged


def _first_line(error: BaseException) -> str:
    text = getattr(error, "problem", None) or getattr(error, "msg", None) or error
    return next(iter(str(text).splitlines()), "") or type(error).__name__


def _printable(text: str) -> str:
    """``text`` where a terminal can show it, else in quotes and with escapes."""
    return text if text and text.isprintable() else repr(text)


def _fields(section: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    annotations = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        either = field.metadata.get("either")
        yield field, typing.Union[either] if either else annotations[field.name]  # noqa: UP007


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
    names = [
        str(kind) if typing.get_args(kind) else getattr(kind, "__name__", str(kind))
        for kind in _alternatives(annotation)
    ]
    return " | ".join(names)


def _misfits(section: type, part: DictConfig, prefix: str) -> Iterator[str]:
    """Unknown keys, and values that are not of the type of their key."""
    known = {field.name: annotation for field, annotation in _fields(section)}
    for name in part:
        path = f"{prefix}{_printable(str(name))}"
        if name in known:
            yield from _misfit(known[name], part._get_node(name), path)
        else:
            below = {row[0].rpartition(".")[2]: row[0] for row in describe(section, prefix) if ".NAME." not in row[0]}
            hint = did_you_mean(str(name), known, prefix)
            if not hint and name in below:
                hint = f" Did you mean {below[name]}?"
            where = prefix.rstrip(".") or "the recipe"
            yield f"{path}: unknown key.{hint} Valid in {where}: {', '.join(known) or 'no key'}"


def _misfit(annotation: Any, node: Any, path: str) -> Iterator[str]:
    """Why ``node``, as it stands in a recipe, cannot be a value of type ``annotation``."""
    if annotation is Any or node is None or node._is_interpolation():
        return
    scalar, *others = _alternatives(annotation)
    if others:
        # A mapping is held against the other type, everything else against the first.
        yield from _misfit(others[0] if isinstance(node, DictConfig) else scalar, node, path)
        return
    optional, kind = _optional(annotation)
    if kind in _NODES:
        to_type, words = _NODES[kind]
        if node._is_missing():
            return
        try:
            to_type(value=node if OmegaConf.is_config(node) else node._value(), is_optional=optional)
        except UNREADABLE:
            yield f"{path}: expected {words}{' or null' * optional}, found {_shown(node)}"
    elif typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        if isinstance(node, ListConfig) and not node._is_none() and not node._is_missing():
            for place in range(len(node)):
                yield from _misfit(item, node._get_node(place), f"{path}[{place}]")
        elif OmegaConf.is_config(node) or node._value() is None:
            yield f"{path}: expected a list, found {_shown(node)}"
        else:
            yield from _misfit(item, node, path)
    elif not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        yield f"{path}: expected keys below it, found {_shown(node)}"
    elif dataclasses.is_dataclass(kind):
        yield from _misfits(typing.cast(type, kind), node, f"{path}.")
    else:
        for name in node:
            if isinstance(name, str):
                yield from _misfit(typing.get_args(kind)[1], node._get_node(name), f"{path}.{_printable(name)}")
            else:
                yield f"{path}: {name!r} is not a name; write it in quotes"


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, without None; else the type itself."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return (annotation,)
    found = tuple(argument for argument in typing.get_args(annotation) if argument is not type(None))
    return found if len(found) > 1 else (annotation,)


def _optional(annotation: Any) -> tuple[bool, Any]:
    """(whether it may be None, the other type) of ``X`` or ``X | None``."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return False, annotation
    return True, next(argument for argument in typing.get_args(annotation) if argument is not type(None))


def _shown(node: Any) -> str:
    """A value as a message quotes it, without resolving what it refers to."""
    value = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node._value()
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value!r:.200}"


def _unresolved(config: Any, prefix: str) -> Iterator[str]:
    """Required keys without a value, and interpolations that lead nowhere or to a value of the wrong type."""
    for name in range(len(config)) if isinstance(config, ListConfig) else config:
        path = f"{prefix}[{name}]" if isinstance(config, ListConfig) else f"{prefix}{'.' * bool(prefix)}{name}"
        try:
            value = config[name]
        except MissingMandatoryValue:
            yield f"{path}: required, but not set"
        except UNREADABLE as error:
            yield f"{path}: {_first_line(error)}"
        else:
            if OmegaConf.is_config(value) and not config._get_node(name)._is_interpolation():
                yield from _unresolved(value, path)


def _wrap_single_values(section: type, part: DictConfig) -> None:
    """Accepts ``inputs=texts/`` for ``inputs=[texts/]`` wherever a key takes a list."""
    for field, annotation in _fields(section):
        if field.name in part:
            _wrap_single_value(annotation, part, field.name)


def _wrap_single_value(annotation: Any, parent: DictConfig, name: Any) -> None:
    node: Any = parent._get_node(name)
    if node is None or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    kind = _optional(_alternatives(annotation)[0])[1]
    if typing.get_origin(kind) is list and not OmegaConf.is_config(node):
        parent[name] = [node._value()]
    elif dataclasses.is_dataclass(kind):
        _wrap_single_values(typing.cast(type, kind), node)
    elif _is_mapping(kind):
        for entry in node:
            _wrap_single_value(typing.get_args(kind)[1], node, entry)


def _problems(value: Any, prefix: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(key, message) of values that are invalid by themselves, and of those that their section refuses together."""
    invalid: list[tuple[str, str]] = []
    impossible: list[tuple[str, str]] = []
    for field in dataclasses.fields(value):
        path = f"{prefix}{field.name}"
        item = getattr(value, field.name)
        entries = item if isinstance(item, dict) else {}
        for name, section in ((path, item), *((f"{path}.{name}", entry) for name, entry in entries.items())):
            if dataclasses.is_dataclass(section):
                found = _problems(section, f"{name}.")
                invalid += found[0]
                impossible += found[1]
        invalid += _unusable(path, item)
        invalid += _out_of_range(path, item, field.metadata)
    if hasattr(value, "problems") and not invalid:
        try:
            impossible += [(f"{prefix}{name}", message) for name, message in value.problems()]
        except OSError as error:
            # A path it looked at: of a forbidden folder, or too long to be one.
            impossible.append((prefix.rstrip(".") or "recipe", f"{error.filename}: {error.strerror}"))
    return invalid, impossible


def _unusable(path: str, item: Any) -> Iterator[tuple[str, str]]:
    """Values that no file of the run could hold, wherever they are used."""
    if isinstance(item, dict):
        for name, entry in item.items():
            yield from _unusable(path, name)
            yield from _unusable(f"{path}.{name}", entry)
    elif isinstance(item, (list, tuple)):
        for entry in item:
            yield from _unusable(path, entry)
    elif isinstance(item, str):
        if "\0" in item:
            yield path, f"{item!r} holds a NUL character"
        elif any("\ud800" <= character <= "\udfff" for character in item):
            yield path, f"{item!r} is not valid Unicode: it holds half of a surrogate pair"
    elif isinstance(item, int):
        if item.bit_length() >= _INTEGER_BITS:
            yield path, f"{item:.3e} does not fit into {_INTEGER_BITS} bits" if abs(item) < 1e300 else "is too large"
    elif isinstance(item, float):
        if math.isnan(item):
            yield path, "NaN is not allowed"
    elif item is not None and not dataclasses.is_dataclass(item):
        yield path, f"expected text, a number, true, false, null, a list or a mapping, found {type(item).__name__}"


def _out_of_range(path: str, item: Any, metadata: Any) -> Iterator[tuple[str, str]]:
    choices, minimum, maximum = (metadata.get(name) for name in ("choices", "minimum", "maximum"))
    for entry in item if isinstance(item, list) else item.values() if isinstance(item, dict) else [item]:
        if choices and entry not in choices and entry is not None:
            yield path, f"{entry!r} is not one of {', '.join(map(str, choices))}.{did_you_mean(str(entry), choices)}"
        if isinstance(entry, (int, float)) and not isinstance(entry, bool):
            if minimum is not None and entry < minimum:
                yield path, f"{entry} is below the minimum {minimum:g}"
            if maximum is not None and entry > maximum:
                yield path, f"{entry} is above the maximum {maximum:g}"
