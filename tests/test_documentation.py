"""What the documentation shows is run, and what it names exists.

Commands in fenced ``sh`` blocks run in order, in a scratch copy of what a checkout holds, by a shell, so that quoting
is tested as well. What cannot run here (a GPU, a cluster, a model that is not there) is read by the command line's own
parser, and its recipe is loaded with the overrides that are shown; the table below says which and why.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from omegaconf import OmegaConf

from megatron_ipt import config
from megatron_ipt.cli import cli
from megatron_ipt.errors import RecipeError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.recipe import Recipe, load_recipe
from tests.conftest import REPOSITORY

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "slurm/**/*.md")
    for path in REPOSITORY.glob(pattern)
)
SHORT = "training.steps=2 training.validation.eval_iters=0 --until export"
"""What the quickstart's run is cut short by."""
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "vocab_size": 128256,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
}  # fmt: skip
SMOLLM2 = LLAMA | {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "rope_theta": 100000.0, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command of a page, with continuation lines joined and without its comment."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class How:
    """What is done with the commands that ``pattern`` finds.

    Attributes:
        action: ``run`` with ``append`` after it and without ``leave_out``; ``make``: ask make whether it knows the
            target; ``parse``: read by the real parser; ``skip``.
        reason: why it is not simply run.
    """

    pattern: str
    action: str
    reason: str
    append: str = ""
    leave_out: str = ""


HOW = (
    How(r"^make ", "make", "installs and tests what this test is a part of"),
    How(r"pip install|^git clone|^python3 -m venv|^cd ", "skip", "fetches packages or code"),
    How(r"activate$", "skip", "the environment is active"),
    How(r"examples/nemo/(megatron_bridge|nemo2)", "parse", "needs GPUs and the framework"),
    How(r"\bRECIPE\b|name=closed_circle", "parse", "the reader's own recipe; a run of minutes before it"),
    How(r"examples/udit", "run", "its pairs; the quickstart trains the same model", "--until augment"),
    How(r"^megatron-ipt run examples/quickstart\.yaml$", "parse", "`make quickstart` runs it; tests/test_pipeline"),
    How(r"tools/damage_documents|selection_trial", "parse", "needs public data sets and the weights"),
    How(r"examples/miniplm_reference", "run", "a reference that has hardly begun", "training.steps=2"),
    How(r"run examples/miniplm_rows\.yaml$", "run", "the quickstart trains alike", "--until row_selection"),
    How(r"run examples/miniplm\.yaml($| name=)", "run", "the selection; the quickstart trains alike", "--until tokens"),
    How(r"examples/distill_quickstart", "run", "two steps; tests/training/teacher trains", "training.steps=2"),
    How(
        r"run examples/pds",
        "run",
        "a scorer of models that hardly began may be refused",
        "--until proxy proxy.steps=2",
        " --until fitting",
    ),
    How(r"(score|select) examples/pds", "parse", "needs that scorer; tests/selection/fitting runs the recipe"),
    How(r"examples/synthesizer_tiny", "run", "the data of it; tests/tuning trains", "--until tuning"),
    How(r"submit .*--dry-run", "run", "checked by Slurm as well where there is one"),
    How(r" submit ", "parse", "needs Slurm; tests/cluster submits to a real one"),
    How(
        r"(models|checkpoints)/(Meta-)?[Ll]lama|models/SmolLM|examples/(synthesizer_)?laptop|examples/glan|runs/mine/(training|export|synthesis)",
        "parse",
        "needs the weights or that run",
    ),
    How(r"examples/(instructlm|llama3).*--gpus|--gpus", "run", "a plan needs no GPU"),
    How(r"^megatron-ipt run examples/extensions/recipe", "parse", "tests/examples runs it"),
    How(r"examples/llama3_8b_continual", "parse", "needs the weights"),
    How(r"examples/picl|^megatron-ipt encoder", "parse", "needs the weights; tests/composition composes and trains"),
    How(r"checkpoints/quickstart$", "parse", "the README imports the same model"),
    How(r"^megatron-ipt import runs/quickstart", "run", "tests/convert verifies", leave_out=" --verify"),
    How(r"name=first( |$)", "parse", "the stages of the README's quickstart, one by one"),
    How(r"name=continued", "run", "data stages; tests/convert trains from imported weights", "--until tokens"),
    How(r"name=mine .*steps=", "run", "the data stages of it", "--until tokens"),
    How(r"tensor_model_parallel_size=2", "parse", "a whole run under two ranks: tests/training does such"),
    How(r"examples/in_context/topics", "skip", "needs WikiText-2"),
    How(r"^megatron-ipt policy .*perceptron\.yaml( |$)", "run", "a search of minutes", "steps=20 epochs=2"),
    How(
        r"^megatron-ipt (benchmark|judge|compare|tuning-data|in-context|policy)|tools/bench_",
        "parse",
        "minutes; its own room's tests",
    ),
)
"""The first row that matches decides; a command that none matches is run as it stands."""


def fenced(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """(first line, content) of every block of ``language``, without the indentation of a list it stands in."""
    lines = page.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        stripped = line.strip()
        if start is None and stripped == f"```{language}":
            start, indent = number, len(line) - len(line.lstrip())
        elif start is not None and stripped == "```":
            yield start + 2, "\n".join(text[indent:] for text in lines[start + 1 : number])
            start = None


def commands() -> Iterator[Command]:
    for page in PAGES:
        name = page.relative_to(REPOSITORY).as_posix()
        for first, block in fenced(page, "sh"):
            yield from commands_of(block, name, first)


def commands_of(block: str, page: str, first: int) -> Iterator[Command]:
    """Commands of one block: a line each, or more with a backslash or a here-document."""
    lines = iter(enumerate(block.splitlines(), first))
    for number, line in lines:
        text = line
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {next(lines)[1].strip()}"
        document = re.search(r"<<'(\w+)'", text)
        if document:
            for _, content in lines:
                text += f"\n{content}"
                if content == document[1]:
                    break
        elif not text.strip() or text.lstrip().startswith("#"):
            continue
        else:
            text = re.sub(r"\s+#\s.*$", "", text)
        # Settings of a file that is shown, not commands.
        if not re.match(r"^#?(export )?[A-Z_]+=\S*$", text):
            yield Command(page, number, text)


COMMANDS = list(commands())


def how(command: Command) -> How:
    return next((row for row in HOW if re.search(row.pattern, command.text)), How("", "run", ""))


def shown(*actions: str) -> list[Command]:
    return [command for command in COMMANDS if how(command).action in actions]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone holds and commands read, a corpus of the reader's own, and the quickstart's run, cut short."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "slurm", "tools", "docs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "slurm/site.env.example", folder / "slurm/site.env")
    texts = folder / "my_texts"
    texts.mkdir()
    for name in ("one", "two", "three"):
        sentences = [
            f"The {name} bridge, part {part}, was built in 19{part}. It carries a road." for part in range(10, 90)
        ]
        (texts / f"{name}.txt").write_text("\n\n".join(sentences))
    # The sizes of models whose weights are not here.
    for model, sizes in (("Meta-Llama-3-8B", LLAMA), ("SmolLM2-135M-Instruct", SMOLLM2)):
        (folder / "models" / model).mkdir(parents=True)
        write_json(folder / "models" / model / "config.json", sizes)
    run_in(folder, f"megatron-ipt run examples/quickstart.yaml {SHORT}")
    return folder


def run_in(folder: Path, text: str) -> str:
    """Output of a command; fails with it where the status is not 0."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-ec", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", shown("run"), ids=str)
def test_commands_that_are_shown_run(checkout, command):
    way = how(command)
    run_in(checkout, f"{command.text} {way.append}".replace(way.leave_out, "").rstrip())


@pytest.mark.parametrize("command", shown("make"), ids=str)
def test_targets_that_are_shown_exist(command):
    if shutil.which("make") is None:
        pytest.skip("no make here")
    subprocess.run(
        ["make", "--dry-run", *shlex.split(command.text)[1:]], cwd=REPOSITORY, check=True, capture_output=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", shown("parse"), ids=str)
def test_commands_that_cannot_run_here_are_understood(checkout, command, monkeypatch):
    monkeypatch.chdir(checkout)
    words = shlex.split(command.text)
    while "=" in words[0]:
        del words[0]
    script = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
    if script is not None:
        read_by_a_script(words[script:], monkeypatch)
        return
    assert words[0] == "megatron-ipt"
    read_by_the_command_line(words[1:])


def read_by_a_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses as the script does: its function ``parse``, or ``_parser``."""
    path = Path(words[0])
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(path.parent))
    module = runpy.run_path(str(path), run_name="shown")
    if "parse" in module:
        module["parse"]()
    else:
        module["_parser"]().parse_args()


def read_by_the_command_line(words: list[str]) -> None:
    """Parses as the command does, and loads the recipe with what is set beside it."""
    with click.Context(cli) as context:
        _, command, arguments = cli.resolve_command(context, words)
        parsed = command.make_context(command.name, list(arguments), parent=context).params
    recipe = parsed.get("recipe")
    if recipe is not None and Path(recipe).is_file():
        load_recipe(recipe, parsed.get("overrides", ()))


def test_a_wrong_command_would_be_found(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    read_by_the_command_line(["run", "examples/quickstart.yaml", "training.steps=7"])
    with pytest.raises(click.UsageError):
        read_by_the_command_line(["run", "examples/quickstart.yaml", "--untill", "tokens"])
    with pytest.raises(RecipeError, match=r"training\.step: unknown key"):
        read_by_the_command_line(["run", "examples/quickstart.yaml", "training.step=7"])
    with pytest.raises(AssertionError, match=r"no_such_command"):
        run_in(tmp_path, "no_such_command")


def test_commands_are_found_as_a_reader_sees_them():
    block = "# why\na --b \\\n    c   # because\ncat > f <<'END'\nx # y\nEND\nNAME=value\nd"
    found = [command.text for command in commands_of(block, "page.md", 1)]
    assert found == ["a --b c", "cat > f <<'END'\nx # y\nEND", "d"]
    assert len(COMMANDS) > 30


def test_every_row_of_the_table_is_needed():
    unused = [row.pattern for row in HOW if not any(how(command) is row for command in COMMANDS)]
    assert not unused


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    missing = []
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


def anchors(page: Path) -> set[str]:
    """Names under which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def keys_of_a_recipe() -> set[str]:
    """All keys, and the sections above them."""
    found = set()
    for path, *_ in config.describe(Recipe):
        parts = path.split(".")
        found |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return found


SECTIONS = {name for name in keys_of_a_recipe() if "." not in name}
KEY = re.compile(rf"^({'|'.join(sorted(SECTIONS))})((?:\.\w+)+)(?:[=:].*)?$")
FILES = (".py", ".yaml", ".json", ".jsonl", ".sbatch", ".html", ".env", ".md", ".stage", ".config")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_keys_that_are_named_exist(page):
    unknown = []
    for span in re.findall(r"`([^`\n]+)`", page.read_text()):
        found = KEY.match(span)
        key = found and f"{found[1]}{found[2]}"
        if key and not key.endswith(FILES) and not is_key(key):
            unknown.append(key)
    assert not unknown


def is_key(key: str) -> bool:
    """Whether a recipe has ``key``, or it is an entry of a mapping such as ``tokens.sources``."""
    if key in keys_of_a_recipe():
        return True
    mapping, _, entry = key.rpartition(".")
    if mapping in mappings_of_a_recipe():
        return True
    # A section below an entry: tokens.sources.raw.share is tokens.sources.NAME.share.
    above, _, _ = mapping.rpartition(".")
    return above in mappings_of_a_recipe() and f"{above}.NAME.{entry}" in keys_of_a_recipe()


@functools.cache
def mappings_of_a_recipe() -> set[str]:
    return {path for path, kind, *_ in config.describe(Recipe) if kind.startswith("dict")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_recipes_that_are_shown_have_known_keys(page):
    for line, block in fenced(page, "yaml"):
        part = OmegaConf.create(block)
        if set(map(str, part)) <= SECTIONS:
            problems = list(config._misfits(Recipe, part, ""))
            assert not problems, f"{page}:{line}: {problems}"


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    """A message is quoted in the first column, with ``...`` for what differs."""
    page = (REPOSITORY / "docs/troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 20
    texts = "\n".join(strings_of_the_code())
    missing = [text for text in quoted if not re.search(re.escape(text).replace(r"\.\.\.", ".*"), texts)]
    assert not missing


def strings_of_the_code() -> Iterator[str]:
    """Every string, f-strings with ``...`` for what they fill in."""
    for path in (REPOSITORY / "megatron_ipt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_pages_are_listed_in_the_index():
    index = (REPOSITORY / "docs/README.md").read_text()
    missing = [page.name for page in (REPOSITORY / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"], "list the new page in docs/README.md"


def test_figures_of_the_readme_and_of_the_page_are_those_that_were_measured(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    import bench

    result = read_json(bench.PAGE.with_suffix(".json"))
    assert set(result["rooms"]) == set(bench.SUITE)
    assert set(bench.HEADLINES) <= {figure.name for figure in bench.figures_of(result)}
    assert bench.PAGE.read_text() == bench.page(result)
    assert f"<!-- figures -->\n{bench.headlines(result)}<!-- end -->" in bench.README.read_text()


def test_the_picture_of_the_architecture_is_up_to_date():
    command = [sys.executable, "tools/draw_architecture.py", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "run tools/draw_architecture.py"
