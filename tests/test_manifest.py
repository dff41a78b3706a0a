from __future__ import annotations

import pytest

from megatron_ipt.errors import StageError
from megatron_ipt.files import write_json
from megatron_ipt.manifest import (
    ShardMarkers,
    StageContext,
    fingerprint_code,
    fingerprint_file,
    fingerprint_stage,
    read_manifest,
    run_stage,
)


@pytest.fixture
def context(tmp_path):
    return StageContext("augment", tmp_path / "augment", seed=1)


def run(context, settings=None, inputs=(), work=lambda: {"documents": 3}, overwrite=False):
    return run_stage(context, settings or {"share": 0.5}, inputs, work, overwrite)


def test_a_finished_stage_is_skipped(context):
    assert run(context)
    manifest = read_manifest(context.directory)
    assert (manifest["status"], manifest["counts"]) == ("complete", {"documents": 3})
    assert not run(context, work=lambda: pytest.fail("ran again"))


def test_other_settings_are_refused_by_name(context):
    run(context, {"layouts": {"plain": 0.9}})
    with pytest.raises(StageError, match=r"augment\.layouts\.plain: was 0\.9, is 0\.8(?s:.*)--overwrite"):
        run(context, {"layouts": {"plain": 0.8}})


def test_a_new_key_that_is_an_empty_mapping_changes_nothing(context):
    run(context, {"share": 0.5})
    assert not run(context, {"share": 0.5, "objectives": {}})
    with pytest.raises(StageError, match=r"augment\.objectives\.kl: was None, is 1"):
        run(context, {"share": 0.5, "objectives": {"kl": 1}})


def test_other_inputs_are_refused_by_name(context, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    run(context, inputs=[fingerprint_file(file)])
    file.write_text("two")
    with pytest.raises(StageError, match=r"input .*a\.txt: changed"):
        run(context, inputs=[fingerprint_file(file)])


def test_overwrite_discards_what_other_settings_made(context):
    run(context, {"a": 1})
    (context.directory / "old.jsonl").touch()
    assert run(context, {"a": 2}, overwrite=True)
    assert not (context.directory / "old.jsonl").exists()


def test_overwrite_keeps_what_equal_settings_made(context):
    run(context)
    assert not run(context, overwrite=True)


def test_changed_code_is_told_and_what_it_made_stays_until_overwritten(context, tmp_path, caplog):
    assert fingerprint_code(None) == []
    code = tmp_path / "engine.py"
    code.write_text("one")
    run(context, inputs=fingerprint_code(code))
    code.write_text("two")
    assert not run(context, inputs=fingerprint_code(code))
    assert "engine.py: changed; existing output is kept; use --overwrite to regenerate it" in caplog.text
    (context.directory / "old.jsonl").touch()
    assert run(context, inputs=fingerprint_code(code), overwrite=True)
    assert not (context.directory / "old.jsonl").exists()
    caplog.clear()
    assert not run(context, inputs=fingerprint_code(code)) and not caplog.text


def test_a_failed_stage_continues_with_its_partial_output(context):
    def fail():
        (context.directory / "part.jsonl").touch()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(context, work=fail)
    manifest = read_manifest(context.directory)
    assert (manifest["status"], manifest["error"]) == ("failed", "ValueError: broken")
    with pytest.raises(StageError, match="different settings"):
        run(context, {"share": 0.7})
    assert run(context, work=lambda: {"kept": (context.directory / "part.jsonl").exists()})
    assert read_manifest(context.directory)["counts"] == {"kept": True}


def test_an_interrupt_is_recorded(context):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(context, work=interrupt)
    assert read_manifest(context.directory)["status"] == "interrupted"


def test_two_processes_in_one_stage_are_refused(context):
    def nested():
        with pytest.raises(StageError, match=r"process \d+ on .* is working on it"):
            run(context)
        return {}

    assert run(context, work=nested)


def test_shares_work_beside_each_other_and_leave_the_stage_unfinished(context):
    def share():
        assert run_stage(context, {"a": 1}, [], lambda: {}, partial=True)
        with pytest.raises(StageError, match=r"augment\.a: was 1, is 2"):
            run_stage(context, {"a": 2}, [], lambda: {}, partial=True)
        with pytest.raises(StageError, match="another process is working"):
            run(context, {"a": 1})
        return {}

    assert run_stage(context, {"a": 1}, [], share, partial=True)
    assert read_manifest(context.directory)["status"] == "running"
    assert run(context, {"a": 1})
    assert not run_stage(context, {"a": 1}, [], share, partial=True)


def test_the_identity_of_a_stage_is_what_it_was_told_and_found(context):
    run(context)
    first = fingerprint_stage(context.directory)
    manifest = read_manifest(context.directory)
    write_json(context.directory / "manifest.json", manifest | {"seconds": 99})
    assert fingerprint_stage(context.directory) == first
    write_json(context.directory / "manifest.json", manifest | {"counts": {"documents": 4}})
    assert fingerprint_stage(context.directory) != first


def test_an_unfinished_stage_has_no_identity(context):
    with pytest.raises(StageError, match="not complete"):
        fingerprint_stage(context.directory)


def test_large_files_are_fingerprinted_by_samples(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(bytes(20 << 20))
    before = fingerprint_file(file)
    with file.open("r+b") as stream:
        stream.seek(10 << 20)
        stream.write(b"x")
    after = fingerprint_file(file)
    assert before["bytes"] == after["bytes"]
    assert before["xxh128"] != after["xxh128"]


def test_markers_of_shards(tmp_path):
    markers = ShardMarkers(tmp_path)
    assert markers.counts("shard-00001.jsonl.zst") is None
    markers.finish("shard-00001.jsonl.zst", {"documents": 2})
    assert markers.counts("shard-00001.jsonl.zst") == {"documents": 2}


def test_a_setting_that_is_new_in_this_version_is_no_difference_at_its_default(context):
    calls = []
    run_stage(context, {"seed": 1}, [], lambda: calls.append(1) or {})
    settings = {"seed": 1, "style": "plain", "nested": {"x": 2}}
    defaults = {"style": "plain", "nested": {"x": 2}}
    assert not run_stage(context, settings, [], dict, defaults=defaults)
    with pytest.raises(StageError, match=r"augment\.nested\.x: was None, is 3"):
        run_stage(context, settings | {"nested": {"x": 3}}, [], dict, defaults=defaults)
    # Without defaults nothing is known about it.
    with pytest.raises(StageError, match=r"augment\.style: was None, is 'plain'"):
        run_stage(context, settings, [], dict)
