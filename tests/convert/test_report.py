from megatron_ipt.files import write_json
from megatron_ipt.stages.page import Part, Step
from tests.report.runs import part_of, write_run


def test_the_exported_model_is_a_card(tmp_path):
    folders = write_run(tmp_path)
    card = Step("from the checkpoint", "3.41M", "parameters", "Hugging Face folder")
    assert part_of(folders, "export") == Part(step=card)
    write_json(folders["export"] / "manifest.json", {"stage": "export", "status": "failed"})
    assert part_of(folders, "export") == Part()
