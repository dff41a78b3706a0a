"""What sections of a recipe take from each other."""

from __future__ import annotations

from megatron_ipt.recipe import load_recipe
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"


def test_sources_of_files_are_read_like_the_corpus():
    overrides = ["corpus.text_key=body", "corpus.valid_share=0", "tokens.sources.x.inputs=[x.jsonl]"]
    tokens = load_recipe(QUICKSTART, [*overrides, "tokens.sources.x.id_key=uid"]).tokens
    source = tokens.sources["x"]
    assert (source.text_key, source.id_key, source.held_out_shares()) == ("body", "uid", (0, 0))
    # What comes from earlier stages is not read from files.
    assert tokens.sources["raw"].text_key is None


def test_texts_of_the_evaluation_are_read_like_the_corpus():
    overrides = ["corpus.text_key=body", "evaluation.texts.held=x.jsonl", "evaluation.read.minimum_characters=5"]
    read = load_recipe(QUICKSTART, overrides).evaluation.read
    assert (read.text_key, read.minimum_characters) == ("body", 5)
    assert load_recipe(QUICKSTART, overrides[:1]).evaluation.read.text_key is None


def test_recipes_do_not_share_what_they_inherit():
    first = load_recipe(QUICKSTART, ["corpus.text_key=body", "tokens.sources.raw.inputs=[x]"])
    assert first.tokens.sources["raw"].text_key == "body"
    assert load_recipe(QUICKSTART).tokens.sources["raw"].text_key is None


def test_samples_of_tuning_data_are_as_long_as_its_rows():
    tiny = REPOSITORY / "examples" / "synthesizer_tiny.yaml"
    assert load_recipe(tiny, ["training.model.max_position_embeddings=2048"]).training.seq_length() == 512
    assert load_recipe(tiny, ["training.data.seq_length=256"]).training.seq_length() == 256
    assert load_recipe(tiny, ["tuning.seq_length=1024"]).training.seq_length() == 512
    # A recipe with a corpus takes the length of the model.
    assert load_recipe(QUICKSTART).training.seq_length() == 256
