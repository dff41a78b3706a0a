"""The command as a user meets it: a process of its own, its messages and exit statuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import pytest

from megatron_ipt.cli import cli
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"


def megatron_ipt(*arguments, **options):
    command = [sys.executable, "-m", "megatron_ipt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def corpus_of(tmp_path):
    """Runs the corpus stage on a file of this content; gives the finished process and the output folder."""

    def run(name, content, *overrides):
        path = tmp_path / name
        path.write_bytes(content)
        output = tmp_path / "run"
        arguments = (QUICKSTART, f"output_dir={output}", f"corpus.inputs=[{path}]", *overrides)
        return megatron_ipt("corpus", *arguments), output

    return run


def commands_of(overview):
    """Names under the headings of the first page, in their order."""
    listed = overview.partition("The flow, in order:")[2].partition("Options:")[0]
    return [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]


def test_help_tells_the_story_in_the_order_of_the_flow():
    assert commands_of(megatron_ipt("--help").stdout)[:20] == [
        "run", "corpus", "proxy", "fit-scorer", "score", "select", "taxonomy", "synthesize", "judge-pairs",
        "decontaminate-data", "augment",
        "tokenize",
        "tuning-data", "score-rows", "select-rows", "compose", "train", "export", "evaluate", "report",
    ]  # fmt: skip


def test_help_lists_every_command_once_and_fits_on_a_screen():
    page = megatron_ipt("--help", env={**os.environ, "COLUMNS": "80"}).stdout
    listed = commands_of(page)
    assert sorted(listed) == sorted(cli.commands)
    assert len(page.splitlines()) < 54
    assert max(map(len, page.splitlines())) <= 80
    assert "..." not in page.partition("ARGS]...")[2]


def on_terminal(lines, columns, *arguments, **environment):
    """What the command shows on a terminal of this size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    hidden = {"COLUMNS", "LINES", "NO_COLOR"}
    variables = {name: value for name, value in os.environ.items() if name not in hidden} | environment
    command = [sys.executable, "-m", "megatron_ipt", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    process.wait(timeout=60)
    return shown.decode().replace("\r\n", "\n")


def test_help_on_a_small_terminal_needs_no_scrolling():
    shown = on_terminal(24, 80, "--help")
    lines = shown.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert set(cli.commands) <= set(shown.split())


def test_colours_are_for_terminals_that_want_them():
    assert "\x1b[1mcorpus.valid_share\x1b[0m" in on_terminal(24, 80, "keys", "corpus.valid_share")
    assert "\x1b" not in on_terminal(24, 80, "keys", "corpus.valid_share", NO_COLOR="1")
    assert "\x1b" not in megatron_ipt("keys", "corpus.valid_share").stdout


def test_every_command_has_an_example():
    context = click.Context(cli, info_name="megatron-ipt")
    for name, command in cli.commands.items():
        page = command.get_help(click.Context(command, parent=context, info_name=name))
        assert f"megatron-ipt {name}" in page.partition("Example:")[2], name


def test_commands_that_scripts_read_speak_json():
    speak = {
        name: all("--json" in each.get_help(click.Context(each)) for each in getattr(command, "commands", {}).values())
        if isinstance(command, click.Group)
        else "--json" in command.get_help(click.Context(command))
        for name, command in cli.commands.items()
    }
    assert {name for name, speaks in speak.items() if not speaks} == {"completion"}


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["megatron-ipt", "tok"], ["tokenize"]),
        (["megatron-ipt", "run", "r.yaml", "corpus.valid"], ["corpus.valid_share="]),
    ],
)
def test_the_shell_completes_commands_and_keys(words, completions):
    assert "_MEGATRON_IPT_COMPLETE=bash_complete" in megatron_ipt("completion", "bash").stdout
    # What the printed script sets and calls.
    asked = {
        "_MEGATRON_IPT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    found = megatron_ipt(env={**os.environ, **asked}).stdout.split()
    assert found == [f"plain,{completion}" for completion in completions]


def test_logs_in_a_file_have_whole_lines_with_day_and_time(corpus_of):
    result, _ = corpus_of("a.jsonl", b'{"text": "good"}\n')
    assert "\r" not in result.stderr and "\x1b" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines and all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d corpus", line) for line in lines)


def test_a_stage_may_be_called_by_the_name_of_its_section():
    assert megatron_ipt("tokens", "--help").stdout == megatron_ipt("tokenize", "--help").stdout


def test_data_commands_do_not_import_torch():
    code = "import sys; import megatron_ipt.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "none.yaml"], 2, "none.yaml: recipe cannot be read: No such file"),
        (["run", QUICKSTART, "training.stps=1"], 2, "training.stps: unknown key. Did you mean training.steps?"),
        (["run", QUICKSTART, "training.steps=x"], 2, "training.steps: expected a whole number or null, found 'x'"),
        (["run", QUICKSTART, "--until", "tokenise"], 2, "tokenise: no such stage"),
        (["run", QUICKSTART, "corpus.inputs=[none.txt]"], 3, "none.txt: no such file or folder"),
        (["train", QUICKSTART], 4, "needs the finished output of stage tokens"),
        (["tokenise", QUICKSTART], 2, "No such command 'tokenise'. Did you mean 'tokenize'?"),
        (["run", QUICKSTART, "--utnil", "tokens"], 2, "No such option '--utnil'. Did you mean '--until'?"),
        (["keys", "nothing"], 2, "no key begins with 'nothing'"),
        (["keys", "training.optimiser"], 2, "Did you mean training.optimizer?"),
        (["keys", "optimizer"], 2, "Did you mean training.optimizer?"),
        (["status", "docs"], 2, "docs: folder has no recipe.yaml"),
    ],
)
def test_mistakes_are_explained(tmp_path, arguments, status, message):
    arguments = [*arguments, f"output_dir={tmp_path / 'run'}"] if arguments[0] not in ("keys", "status") else arguments
    result = megatron_ipt(*arguments)
    assert message in result.stderr
    assert result.returncode == status
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "every file is empty"),
        ("broken.jsonl", b"{\n[[\n", "2 of 2 records were rejected (invalid JSON: 2)"),
        ("other.jsonl", b'{"body": "x"}\n', "1 of 1 records were rejected (missing text: 1)"),
        ("latin.txt", b"caf\xe9", "1 of 1 records were rejected (not UTF-8: 1)"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "damaged or truncated after line 0"),
        ("unknown.docx", b"x", "unknown format '.docx'"),
    ],
)
def test_bad_input_is_explained_and_leaves_no_shard(corpus_of, name, content, message):
    result, output = corpus_of(name, content)
    assert message in result.stderr
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert not list(output.rglob("shard-*"))


def test_a_fault_is_called_one_below_its_traceback(tmp_path):
    (tmp_path / "faulty.py").write_text("1 / 0\n")
    result = megatron_ipt("keys", env={**os.environ, "MEGATRON_IPT_EXTENSIONS": str(tmp_path / "faulty.py")})
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("this is a bug in megatron-ipt or in an extension")


def test_a_stage_continues_after_bad_input_was_mended(corpus_of):
    assert corpus_of("a.jsonl", b"{\n")[0].returncode == 3
    result, output = corpus_of("a.jsonl", b'{"text": "good"}\n', "--overwrite")
    assert result.returncode == 0
    assert json.loads((output / "corpus/manifest.json").read_text())["counts"]["documents"] == 1


def test_json_and_status(corpus_of):
    result, output = corpus_of("a.jsonl", b'{"text": "good"}\n', "--json")
    row = json.loads(result.stdout)
    assert (row["stage"], row["status"], row["counts"]["documents"]) == ("corpus", "complete", 1)
    rows = json.loads(megatron_ipt("status", QUICKSTART, f"output_dir={output}", "--json").stdout)
    assert [row["status"] for row in rows] == ["complete"] + ["missing"] * 7


def test_changed_settings_are_refused_and_can_be_overwritten(corpus_of):
    corpus_of("a.jsonl", b'{"text": "good"}\n')
    result, _ = corpus_of("a.jsonl", b'{"text": "good"}\n', "corpus.synthesis_share=0.5")
    assert result.returncode == 4
    assert "corpus.synthesis_share: was 0.7, is 0.5" in result.stderr
    result, _ = corpus_of("a.jsonl", b'{"text": "good"}\n', "corpus.synthesis_share=0.5", "--overwrite")
    assert result.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_explained_and_a_rerun_completes(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", full], check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        corpus = tmp_path / "a.jsonl"
        corpus.write_text("".join(f'{{"text": "{number} {"word " * 50}"}}\n' for number in range(3000)))
        arguments = ("corpus", QUICKSTART, f"output_dir={full / 'run'}", f"corpus.inputs=[{corpus}]")
        result = megatron_ipt(*arguments)
        assert result.returncode == 5
        assert "could not be written: No space left on device" in result.stderr
        assert not list(full.rglob("shard-*"))
        subprocess.run(["mount", "-o", "remount,size=16m", full], check=True)
        assert megatron_ipt(*arguments).returncode == 0
    finally:
        subprocess.run(["umount", full], check=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing_half_written_and_a_rerun_completes(tmp_path, number, status):
    corpus = tmp_path / "a.jsonl"
    with corpus.open("w") as stream:
        stream.writelines(f'{{"text": "document {number}"}}\n' for number in range(200_000))
    output = tmp_path / "run"
    arguments = ("corpus", str(QUICKSTART), f"output_dir={output}", f"corpus.inputs=[{corpus}]")
    process = subprocess.Popen([sys.executable, "-m", "megatron_ipt", *arguments], stderr=subprocess.PIPE)
    while not list(output.rglob("shard-*")):
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert not [path for path in output.rglob(".*") if path.suffix == ".tmp"]
    assert json.loads((output / "corpus/manifest.json").read_text())["status"] == "interrupted"
    assert megatron_ipt(*arguments).returncode == 0
    counts = json.loads((output / "corpus/manifest.json").read_text())["counts"]
    assert counts["documents"] == 200_000


def test_shares_of_a_stage_make_what_one_process_makes(tmp_path):
    def run(command, output, *options):
        arguments = (command, QUICKSTART, f"output_dir={output}", "corpus.shard_documents=10", *options)
        return subprocess.Popen([sys.executable, "-m", "megatron_ipt", *map(str, arguments)], stderr=subprocess.PIPE)

    one, many = tmp_path / "one", tmp_path / "many"
    for output in (one, many):
        assert run("corpus", output).wait() == 0
    for stage, folder in (("synthesize", "synthesis"), ("augment", "augment"), ("tokenize", "tokens")):
        assert run(stage, one).wait() == 0
        shares = [run(stage, many, "--shard", f"{index}/3") for index in range(3)]
        assert [share.wait() for share in shares] == [0, 0, 0]
        assert json.loads((many / folder / "manifest.json").read_text())["status"] == "running"
        assert run(stage, many).wait() == 0
        made = {
            output: {
                path.relative_to(output): path.read_bytes()
                for path in sorted((output / folder).rglob("*"))
                if path.is_file() and path.name != "manifest.json"
            }
            for output in (one, many)
        }
        assert made[one] == made[many]


def test_keys_are_listed_with_type_default_and_meaning():
    output = megatron_ipt("keys", "corpus.valid_share").stdout
    assert output.startswith("corpus.valid_share  (float, default 0.02)\n    Share of documents")
    rows = json.loads(megatron_ipt("keys", "--json").stdout)
    assert {"name", "training.optimizer.lr", "tokens.sources.NAME.share"} <= {row["key"] for row in rows}
    assert all(row["help"] for row in rows)


def test_the_example_recipes_are_valid():
    for recipe in sorted(Path(REPOSITORY / "examples").glob("*.yaml")):
        if recipe.name.startswith("compare_"):
            continue  # describes several runs, not one
        result = megatron_ipt("status", recipe)
        # The model that a continual recipe starts from is for its user to bring.
        missing_model = "training.model.from_hf: " in result.stderr and "cannot be opened" in result.stderr
        assert result.returncode == 0 or missing_model, result.stderr


def test_ctrl_c_while_a_library_compiles_code_still_gives_the_status_of_an_interrupt(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from megatron_ipt import cli\n"
        "@cli.cli.command('compile')\n"
        "def compile_code():\n"
        "    exec('import os, signal\\nos.kill(os.getpid(), signal.SIGINT)\\nwhile True: pass')\n"
        "cli.main()\n"
    )
    result = subprocess.run(
        [sys.executable, program, "compile"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 130
    assert "interrupted; rerun the command" in result.stderr
