"""The taxonomy: fields, their sub-fields, and in each of these the disciplines that pairs are made for.

A file is YAML: ``fields`` maps each field to its sub-fields and each of those to a list of disciplines. The optional
``weights`` of fields and sub-fields, and the weight behind a discipline, multiply the number of questions of each of
its subjects; a weight of 0 leaves out what it belongs to. ``taxonomy.yaml`` beside this module is one, to be used as
``built-in``. All problems of a file are reported at once.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError, did_you_mean
from megatron_ipt.files import COMPRESSIONS
from megatron_ipt.manifest import ShardMarkers
from megatron_ipt.synthesis.from_taxonomy.outline.strict_yaml import read_yaml
from megatron_ipt.synthesis.shard_files import ShardFiles

BUILT_IN = "built-in"
"""Value of ``taxonomy.file`` for the taxonomy of this package."""
SEPARATOR = " > "
"""Between the names on a path, which is the id of a node."""

REFUSED_CALLS = "refused_calls"
"""In the counts of a discipline."""

_BUILT_IN_FILE = Path(__file__).with_name("taxonomy.yaml")
_MOST_CHARACTERS = 200
"""Of a name."""
_MOST_WEIGHT = 1e6
_EXPECTED = "expected a mapping with the key fields, which maps fields to sub-fields and these to lists of disciplines"


@dataclass(frozen=True)
class Discipline:
    """A leaf of the taxonomy, and the unit of work and of resume.

    Attributes:
        field, sub_field, name: on its path.
        weight: of field, sub-field and discipline, multiplied.
    """

    field: str
    sub_field: str
    name: str
    weight: float = 1.0

    @property
    def path(self) -> str:
        """Its id: ``Field > Sub-field > Discipline``."""
        return path_of(self.field, self.sub_field, self.name)

    def shard_name(self, compression: str) -> str:
        """File name of its chains. It depends on its path alone, so that further disciplines change no other shard."""
        plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40]
        code = hashlib.blake2b(self.path.encode(), digest_size=4).hexdigest()
        return f"shard-{slug}-{code}.jsonl{COMPRESSIONS[compression]}".replace("--", "-")


@dataclass(frozen=True)
class DisciplineTask(ShardFiles):
    """A discipline to grow; its files are called ``name``."""

    discipline: Discipline

    def refused(self, directory: Path) -> int:
        """Number of calls that the engine refused in the finished discipline; 0 while it is unfinished."""
        return int((ShardMarkers(directory).counts(self.name) or {}).get(REFUSED_CALLS, 0))


def path_of(*names: str) -> str:
    """The id of the node with these names on its path."""
    return SEPARATOR.join(names)


def part_of(node: str, part: str) -> str:
    """The id of a part of a node, such as its syllabus. No name has ``>``, so no subject has the id of a part."""
    return f"{node} >> {part}"


def clean_name(text: str) -> str:
    """A name as it stands in an id: NFKC, without control characters, runs of blanks and ``>``; may be empty."""
    text = unicodedata.normalize("NFKC", text).replace(">", "›")
    text = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    return " ".join(text.split())


def same_name(text: str) -> str:
    """What two names have in common that are the same: NFKC, case folded, single blanks."""
    return clean_name(text).casefold()


def file_of(name: str) -> Path:
    """The file that ``taxonomy.file`` names."""
    return _BUILT_IN_FILE if name == BUILT_IN else Path(name).expanduser()


def read_taxonomy(path: Path) -> list[Discipline]:
    """The disciplines of a file with a weight above 0, in its order.

    Raises:
        RecipeError: the file cannot be read; or it is empty, or has a field, sub-field or discipline without content, a
            name twice or a bad weight. Lists everything that is wrong with it.
    """
    content = read_yaml(path, "taxonomy.file")
    reader = _Reader(content)
    disciplines = list(reader.read())
    if not reader.problems and not any(discipline.weight for discipline in disciplines):
        reader.problems.append("no discipline has a weight above 0")
    if reader.problems:
        raise RecipeError("\n".join(f"taxonomy.file: {path}: {problem}" for problem in reader.problems))
    return [discipline for discipline in disciplines if discipline.weight]


class _Reader:
    def __init__(self, content: Any):
        self.problems: list[str] = []
        self._content = content
        self._weights: dict[str, float] = {}
        self._seen: dict[str, str] = {}

    def read(self) -> Iterator[Discipline]:
        content = self._content
        if not isinstance(content, dict) or not isinstance(content.get("fields"), dict) or not content["fields"]:
            self.problems.append(_EXPECTED)
            return
        for name in content.keys() - {"fields", "weights"}:
            self.problems.append(f"{name!r}: not a key of a taxonomy.{did_you_mean(str(name), ('fields', 'weights'))}")
        fields = content["fields"]
        self._read_weights(content.get("weights"), fields)
        for field, sub_fields in fields.items():
            field_name = self._name(field, "field")
            if not isinstance(sub_fields, dict) or not sub_fields:
                self.problems.append(f"{field}: has no sub-fields; expected a mapping of sub-fields to disciplines")
                continue
            for sub_field, entries in sub_fields.items():
                yield from self._disciplines(field_name, self._name(sub_field, f"{field}: sub-field"), entries)

    def _disciplines(self, field: str, sub_field: str, entries: Any) -> Iterator[Discipline]:
        where = path_of(field, sub_field)
        if not isinstance(entries, list) or not entries:
            self.problems.append(f"{where}: has no disciplines; expected a list of names")
            return
        for entry in entries:
            name, weight = entry, 1.0
            if isinstance(entry, dict) and len(entry) == 1:
                ((name, value),) = entry.items()
                weight = self._weight(value, f"{where}: {name}")
            name = self._name(name, f"{where}: discipline")
            if not name:
                continue
            path = path_of(where, name)
            earlier = self._seen.setdefault(same_name(name), path)
            if earlier != path or path in self._seen:
                self.problems.append(f"{path}: there is {earlier} already; a discipline must be in one place only")
                continue
            self._seen[path] = path
            groups = {same_name(field), same_name(sub_field)}
            total = weight * math.prod(self._weights.get(group, 1.0) for group in groups)
            if total > _MOST_WEIGHT:
                self.problems.append(f"{path}: the weights multiply to {total:g}; at most {_MOST_WEIGHT:g} is possible")
            yield Discipline(field, sub_field, name, total)

    def _read_weights(self, weights: Any, fields: dict[Any, Any]) -> None:
        if weights is None:
            return
        if not isinstance(weights, dict):
            self.problems.append("weights: expected a mapping of fields and sub-fields to numbers")
            return
        groups = [*fields, *(sub for subs in fields.values() if isinstance(subs, dict) for sub in subs)]
        known = {same_name(str(name)): str(name) for name in groups}
        for name, value in weights.items():
            if same_name(str(name)) not in known:
                self.problems.append(
                    f"weights: {name}: not a field or sub-field.{did_you_mean(str(name), known.values())} The weight "
                    "of a discipline stands behind its name"
                )
            self._weights[same_name(str(name))] = self._weight(value, f"weights: {name}")

    def _weight(self, value: Any, where: str) -> float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            self.problems.append(f"{where}: the weight is {value!r}; expected a number of at least 0")
            return 1.0
        return float(value)

    def _name(self, value: Any, what: str) -> str:
        if not isinstance(value, str):
            self.problems.append(f"{what} {value!r}: expected a name; put it in quotation marks")
            return ""
        name = clean_name(value)
        if not name or len(name) > _MOST_CHARACTERS:
            self.problems.append(f"{what} {value[:60]!r}: expected a name of 1 to {_MOST_CHARACTERS} characters")
        return name
