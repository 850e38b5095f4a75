"""A `bark-jax say` runs each check and reads each file once, as counted by `benchmarks.say_path`."""

import pytest

from benchmarks.say_path import COMMAND, follow

ONCE = (
    "text.checks.check_text",
    "text.processor.BarkProcessor.__init__",
    "text.prompts.PromptReader._encode",
    "text.prompts.PromptReader._warn_of_unknown_words",
    "voices.library.resolve_voice",
    "generation.settings.resolve_settings",
    "checkpoints.find.find_model",
    "checkpoints.load.read_configs",
)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


@pytest.mark.parametrize("more", [(), ("--long",)], ids=["one", "long"])
def test_what_a_text_needs_is_done_once(more):
    path = follow((*COMMAND, *more))
    counts = {name: path.calls_by_function[name] for name in ONCE}
    if more:  # a text is checked, and so is each of its sentences, whose tokens are counted while it is cut
        assert counts.pop("text.checks.check_text") == 2
        assert counts.pop("text.prompts.PromptReader._encode") > 1
    assert set(counts.values()) == {1}, counts
