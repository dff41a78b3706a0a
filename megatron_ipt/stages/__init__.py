"""What a stage is, and the vocabularies of plans and reports.

A stage reads and makes *kinds* of data (documents, chains, token data, checkpoints, ...), and that alone connects it to
other stages: a stage reads a kind from the last stage before it that makes it. Which stages a recipe has follows from
its sections (:func:`stages_of_sections`). Code is named as ``module:function`` and imported when it is called, so that
a table of stages costs no imports.

The pipeline, the command line, Slurm, ``status``, ``plan`` and the report know no stage by name. A custom stage is
registered by an extension and takes part in all of them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError, StageError

DOCUMENTS = "documents"
"""A corpus: shards of documents in ``synthesis/`` (to get pairs) and ``raw/`` (to stay as they are)."""
CHAINS = "chains"
"""Shards of texts with their pairs."""
SCORES = "scores"
"""What models think of each training document of a corpus, shard by shard."""
PROXY_SCORES = "proxy scores"
"""How much training on documents of a sample did for a target, and these documents."""
SCORER = "fitted scorer"
"""A model that predicts a score of a text."""
ROW_SCORES = "row scores"
"""What models think of each training row of token data, shard by shard."""
AUGMENTED = "augmented documents"
"""Shards of documents made from texts and pairs in ``augmented/``, and of documents without pairs in ``plain/``."""
TOKENS = "token data"
"""Indexed datasets, their tokenizer and ``dataset.json``."""
CHECKPOINTS = "checkpoints"
"""Megatron-Core checkpoints in ``checkpoints/``."""
MODEL = "model"
"""A Hugging Face folder ``model/``."""
RESULTS = "results"
"""Measurements of a model."""
EVERYTHING = "everything"
"""Not a kind but all earlier stages of the recipe, by name instead of by kind."""


@dataclass(frozen=True)
class Resources:
    """What a job of this stage asks Slurm for; a site file can override sizes and limits for every stage.

    Attributes:
        gpus: ``none``; ``task``: GPUs for every task of an array; ``node``: GPUs of each node.
        gpus_per_task: ``module:function`` of the section: GPUs that one task needs by default. 0 for none, whatever the
            site file says. Without a function, 1 by default.
        steps_on_cpu: steps of the stage that need no GPU.
        whole_nodes: the stage runs on whole nodes, by a batch script of its own, ``COMMAND.sbatch``.
        cores: key of the section that takes the number of cores of a task, e.g. ``workers``.
        time: default limit of a job, as sbatch takes it.
        needs: ``module:function`` of (section, context) that returns the :class:`Needs` of a stage on whole nodes, for
            the pre-flight check.
    """

    gpus: str = "none"
    gpus_per_task: str = ""
    steps_on_cpu: tuple[str, ...] = ()
    whole_nodes: bool = False
    cores: str = ""
    time: str = "12:00:00"
    needs: str = ""


@dataclass(frozen=True)
class Needs:
    """What every node must have before a stage starts.

    Attributes:
        files: that it must see.
        free_gb: free space in the folder of the run, in GB.
        purpose: of the space, for messages.
    """

    files: tuple[Path, ...] = ()
    free_gb: float = 0.0
    purpose: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a stage is, for ``status``.

    Attributes:
        facts: for people, e.g. ``step 24 of 60``.
        figures: the same for programs.
        seconds_left: None if unknown.
    """

    facts: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds_left: float | None = None


@dataclass(frozen=True)
class Units:
    """The parts into which a stage divides its work, in the order in which shares of it are dealt out.

    Attributes:
        names: of the parts.
        folder: below the folder of the stage, where :class:`~megatron_ipt.manifest.ShardMarkers` records finished ones.
    """

    names: tuple[str, ...]
    folder: str = ""


@dataclass(frozen=True)
class Action:
    """An option of a stage's command that does something other than making the output of the stage, or does something
    before that. One action at a time.

    Attributes:
        option: on the command line, e.g. ``--tune``.
        help: one line for ``--help``.
        code: ``module:function``, called with (section, context) when everything that the stage reads is finished.
            Returns a result that can be written as JSON.
        value: what the option takes, e.g. ``STAGE``, passed as the keyword argument ``value``; empty for a flag.
        then_run: the stage runs afterwards, even if it was complete. ``code`` is then called while no other process is
            making the whole stage, and only if output that is already there was made with the same settings and inputs;
            for a shardable stage it also takes ``shard``, (i, N) or None. The action of a stage that does not run must
            not change its output.
        render: ``module:function`` of the result that returns text for people; by default, a line per entry.
    """

    option: str
    help: str
    code: str
    value: str = ""
    then_run: bool = False
    render: str = ""

    @property
    def name(self) -> str:
        """``--retry-refused`` -> ``retry_refused``."""
        return self.option.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its recipe section and of its folder.
        command: on the command line.
        help: one line, at most 58 characters.
        config: dataclass of its recipe section. Its method ``begins()``, where there is one, says whether the section
            names data of its own, so that a flow can begin with this stage; its method ``wanted()``, where there is
            one, whether the recipe asks for the stage at all.
        code: ``module:function``, called with (section, context), returns counts. A shardable stage also takes
            ``shard=(i, N)``.
        reads: kinds that it needs.
        reads_if_made: kinds that it reads if the recipe makes them.
        makes: kinds that later stages read from its folder.
        remakes: kinds that it reads and makes again if an earlier stage makes them, such as those that it filters;
            later stages read them from its folder.
        begins_with: recipe key that names its own data, for messages; empty for a stage that cannot begin a flow.
        files: ``module:function`` of the section: fingerprints of inputs from outside the run.
        check: ``module:function`` of the section that raises at once what the stage would raise later.
        units: ``module:function`` of (section, context) that returns :class:`Units`. Stages with units are shardable.
        unit: what a unit is called, in the plural.
        unit_option: option of its command that does a single unit, e.g. ``--discipline``; ``code`` then takes its name
            as ``unit``. Empty for none.
        example: recipe for the help of its command.
        steps: parts of the stage, each of which needs all units of the one before; units are called ``STEP/...``. The
            option ``--until STEP`` ends after one, and ``code`` takes it as ``until``; on Slurm, each step is an array.
        unit_group: where that option names a group of units, what groups are called, in the plural. ``--shard`` then
            divides the group.
        completes: what the run that follows all shares adds, for people.
        extra: of the package that installs what the stage needs.
        libraries: packages of that extra, to be looked for before the stage is imported.
        resources: on Slurm.
        cost: ``module:function`` of the cost model for ``plan``, see :mod:`megatron_ipt.stages.costs`.
        demand: ``module:function`` of the section: how much of what it reads the stage needs, by kind.
        progress: ``module:function`` of (section, context) that returns :class:`Progress`, or None before there is any;
            for stages whose progress is not a number of finished units.
        report: ``module:function`` of the stage's record that describes its part of the report, see
            :mod:`megatron_ipt.stages.page`. Without it, the report shows the stage's counts.
        result: path below its folder that a finished run names, for people.
        shows: counts for the log and ``status``, in order; all of them if empty.
        keeps: names in its folder that ``--overwrite`` does not discard, such as records of what was spent.
        actions: further options of its command.
    """

    name: str
    command: str
    help: str
    config: type
    code: str
    reads: tuple[str, ...] = ()
    reads_if_made: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    remakes: tuple[str, ...] = ()
    begins_with: str = ""
    files: str = ""
    check: str = ""
    units: str = ""
    unit: str = "shards"
    unit_option: str = ""
    steps: tuple[str, ...] = ()
    example: str = "examples/quickstart.yaml"
    unit_group: str = ""
    completes: str = "counts and manifest"
    extra: str = ""
    libraries: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    cost: str = ""
    demand: str = ""
    progress: str = ""
    report: str = ""
    result: str = ""
    shows: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()

    @property
    def all_reads(self) -> tuple[str, ...]:
        """Kinds that it reads, whether or not it needs them."""
        return (*self.reads, *self.reads_if_made, *self.remakes)

    def made_after(self, made: Container[str]) -> tuple[str, ...]:
        """Kinds that it makes after stages that have ``made`` some."""
        return (*self.makes, *(kind for kind in self.remakes if kind in made))

    @property
    def shardable(self) -> bool:
        """Whether several processes may each do a share of it."""
        return bool(self.units)

    def function(self, hook: str) -> Callable[..., Any]:
        """The function that a hook names which needs the stage's libraries: ``code``, ``files``, ``check`` or the code
        of an action.

        All other hooks work without them and are loaded with :func:`load`: recipes are planned, submitted and watched
        on machines that cannot run every stage.

        Raises:
            StageError: libraries of the stage are not installed.
        """
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            extra = f"; `pip install megatron-ipt[{self.extra}]` installs it" if self.extra else ""
            raise StageError(f"{self.name}: {' and '.join(missing)} not installed{extra}")
        return load(hook)


def load(hook: str) -> Callable[..., Any]:
    """The function that ``module:function`` names."""
    module, _, function = hook.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


_TABLE: list[Stage] = []


def all_stages() -> tuple[Stage, ...]:
    """Every stage that is registered, in the order of the flow."""
    return tuple(_TABLE)


def register(stage: Stage, after: str = "") -> None:
    """Adds a stage to the table.

    Args:
        after: name of the stage that it follows; by default the last one that makes something it reads, or the end of
            the table where there is none.

    Raises:
        RecipeError: another stage has this name or command, or there is no stage ``after``.
    """
    for place, other in enumerate(_TABLE):
        if (other.name, other.code) == (stage.name, stage.code):
            # The same extension, read again: after it was edited in a notebook, or from a copy of its file.
            _TABLE[place] = stage
            return
        taken = {other.name, other.command} & {stage.name, stage.command}
        if taken:
            raise RecipeError(f"stage {stage.name}: there is a stage called {taken.pop()} already; choose another name")
    _TABLE.insert(_place(stage, after), stage)


def _place(stage: Stage, after: str) -> int:
    names = [other.name for other in _TABLE]
    if after:
        if after not in names:
            raise RecipeError(
                f"stage {stage.name}: follows {after!r}, which is not a stage; stages: {', '.join(names)}"
            )
        return names.index(after) + 1
    reads = {*stage.reads, *stage.reads_if_made}
    makers = [index for index, other in enumerate(_TABLE) if reads & set(other.makes)]
    return makers[-1] + 1 if makers else len(_TABLE)


def stage_named(name: str) -> Stage:
    """The stage with this name or command.

    Raises:
        RecipeError: there is none.
    """
    for stage in _TABLE:
        if name in (stage.name, stage.command):
            return stage
    raise RecipeError(f"{name}: no such stage; the stages are {', '.join(stage.name for stage in _TABLE)}")


def stages_of_sections(sections: Mapping[str, Any], skip: Iterable[str] = ()) -> tuple[Stage, ...]:
    """The stages that a recipe with these sections has, in order.

    A stage is there if its section names data of its own, or if everything it needs is made by stages before it (for
    one that needs nothing in particular: anything it reads), unless its section says that it is not wanted.

    Raises:
        RecipeError: two stages make the same kind, and neither reads it from the other.
    """
    left_out = set(skip)
    there: list[Stage] = []
    maker: dict[str, Stage] = {}
    for stage in _TABLE:
        if stage.name in left_out or stage.name not in sections or not is_wanted(sections[stage.name]):
            continue
        optional = [kind for kind in stage.all_reads if kind in maker or (kind == EVERYTHING and there)]
        needs_met = all(kind in maker for kind in stage.reads) and bool(stage.reads or optional)
        if not needs_met and not _begins(sections[stage.name]):
            continue
        for kind in stage.made_after(maker):
            earlier = maker.get(kind)
            if earlier is not None and kind not in stage.all_reads:
                begun = [other.begins_with for other in (*there, stage) if _begins(sections[other.name])]
                raise RecipeError(
                    f"{stage.begins_with or stage.name}: {earlier.name} and {stage.name} both make {kind}; keep one of "
                    f"{' and '.join(begun)}, or leave out one of the stages with skip"
                )
            maker[kind] = stage
        there.append(stage)
    return tuple(there)


def inputs_of(stage: Stage, stages: Iterable[Stage]) -> dict[str, Stage]:
    """What ``stage`` reads from which of ``stages``: by kind, or by name for :data:`EVERYTHING`."""
    before: list[Stage] = []
    for other in stages:
        if other == stage:
            break
        before.append(other)
    if EVERYTHING in stage.reads_if_made:
        return {other.name: other for other in before}
    makers = makers_of(before)
    return {kind: makers[kind] for kind in stage.all_reads if kind in makers}


def makers_of(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stage that makes each kind; a later maker of the same kind replaces an earlier one."""
    makers: dict[str, Stage] = {}
    for stage in stages:
        makers |= dict.fromkeys(stage.made_after(makers), stage)
    return makers


def is_wanted(section: Any) -> bool:
    """Whether a recipe with this section asks for its stage."""
    wanted = getattr(section, "wanted", None)
    return wanted is None or bool(wanted())


def _begins(section: Any) -> bool:
    begins = getattr(section, "begins", None)
    return bool(begins is not None and begins())
