"""Settings: precedence of arguments and configs, meaning of values, and refused values."""

import dataclasses
import typing
from pathlib import Path

import numpy as np
import pytest

from bark_jax.config import BarkGenerationConfig
from bark_jax.errors import InputError
from bark_jax.generation.settings import (
    SETTINGS,
    GenerateSettings,
    PerRow,
    StageSampling,
    resolve_settings,
    resolve_stage,
    without_draws,
)
from bark_jax.generation.tokens import STAGES, TokenSpaces

GREEDY = BarkGenerationConfig()
SUNO = BarkGenerationConfig.suno()


def resolve(given, n_rows=1, config=SUNO):
    return resolve_settings(given, n_rows, config, TokenSpaces.from_config(config))


def test_defaults_come_from_the_checkpoint():
    (row,) = resolve({})
    assert row.semantic == row.coarse == StageSampling(0.7) and row.fine == StageSampling(0.5)
    assert (row.min_end_probability, row.max_semantic_tokens, row.may_end_early) == (0.2, 768, True)


def test_a_checkpoint_without_sampling_takes_the_most_likely_tokens():
    (row,) = resolve({}, config=GREEDY)
    assert row.semantic == row.coarse == row.fine == StageSampling(0.0)
    assert row.min_end_probability > 1


def test_a_prefix_wins_over_no_prefix():
    (row,) = resolve({"temperature": 0.9, "coarse_temperature": 0.6, "top_k": 50, "semantic_top_p": 0.95})
    assert row.semantic == StageSampling(0.9, 50, 0.95)
    assert row.coarse == StageSampling(0.6, 50) and row.fine == StageSampling(0.9)


def test_rows_have_their_own_values():
    first, second = resolve({"temperature": [0.5, 0.6], "semantic_max_new_tokens": np.array([10, 20])}, n_rows=2)
    assert (first.semantic.temperature, first.max_semantic_tokens) == (0.5, 10)
    assert (second.coarse.temperature, second.max_semantic_tokens) == (0.6, 20)


def test_do_sample_false_reaches_every_stage():
    (row,) = resolve({"do_sample": False})
    assert row.semantic == row.coarse == row.fine == StageSampling(0.0)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_the_fine_stage_takes_the_most_likely_code_at_none_and_1(temperature):
    assert resolve({"fine_temperature": temperature})[0].fine == StageSampling(0.0)


def test_the_fine_stage_draws_at_1_with_fine_do_sample():
    assert resolve({"fine_temperature": 1.0, "fine_do_sample": True})[0].fine == StageSampling(1.0)


def test_coarse_windows_default_to_the_checkpoints_and_can_trade_history_for_length():
    (row,) = resolve({})
    assert (row.n_coarse_history, row.coarse_window) == (630, 60)
    (row,) = resolve({"max_coarse_history": 590, "coarse_sliding_window_len": 100})
    assert (row.n_coarse_history, row.coarse_window) == (590, 100)


def test_coarse_windows_are_one_for_all_rows():
    with pytest.raises(InputError, match="differ between rows"):
        resolve({"sliding_window_len": [60, 30]}, n_rows=2)


def test_seconds_are_semantic_tokens():
    assert resolve({"max_seconds": 2.0})[0].max_semantic_tokens == 99
    assert resolve({"max_seconds": 15.39})[0].max_semantic_tokens == 767
    assert resolve({"max_seconds": 15.4})[0].max_semantic_tokens == 768


@pytest.mark.parametrize("seconds", [15.42, 100, 1e308])
def test_more_seconds_than_the_model_can_speak_are_refused(seconds):
    with pytest.raises(InputError, match=r"max_seconds is .*, expected at most 15\.39.*--long"):
        resolve({"max_seconds": seconds})


def test_a_file_may_say_top_k_0_for_all():
    semantic = dataclasses.replace(SUNO.semantic_config, top_k=0)
    assert resolve({}, config=dataclasses.replace(SUNO, semantic_config=semantic))[0].semantic.top_k == 0


@pytest.mark.parametrize("given", [{"temperature": 0.7}, {"coarse_top_k": 50}, {"semantic_top_p": 0.9}])
def test_a_setting_without_effect_is_refused(given):
    with pytest.raises(InputError, match="would have no effect"):
        resolve(given, config=GREEDY)


@pytest.mark.parametrize(
    "given",
    [
        {"do_sample": False, "temperature": 0.7},
        {"do_sample": False, "fine_temperature": 0.7},
        {"do_sample": False, "coarse_top_k": 5},
        {"semantic_do_sample": False, "semantic_top_p": 0.5},
        {"fine_do_sample": False, "fine_temperature": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("config", [GREEDY, SUNO], ids=["greedy", "drawn"])
def test_a_setting_of_draws_beside_do_sample_false_is_refused(given, config):
    with pytest.raises(InputError, match="would have no effect: do_sample=False takes the most likely token"):
        resolve(given, config=config)


def test_a_setting_of_all_stages_may_stand_beside_one_greedy_stage():
    (row,) = resolve({"semantic_do_sample": False, "temperature": 0.9})
    assert row.semantic == StageSampling(0.0) and row.coarse == row.fine == StageSampling(0.9)
    (row,) = resolve({"do_sample": False, "semantic_do_sample": True, "semantic_temperature": 0.9})
    assert row.semantic == StageSampling(0.9) and row.coarse == row.fine == StageSampling(0.0)


def test_what_is_so_without_it_may_stand_beside_do_sample_false():
    (row,) = resolve({"do_sample": False, "temperature": 1.0, "top_k": None, "top_p": 1.0})
    assert row.semantic == row.coarse == row.fine == StageSampling(0.0)


def test_defaults_of_draws_go_where_a_row_is_greedy():
    defaults = {"temperature": 0.7, "semantic_top_k": 5, "min_eos_p": 0.1}
    assert without_draws(defaults, {"do_sample": False}) == {"min_eos_p": 0.1}
    assert without_draws(defaults, {"semantic_do_sample": False}) == {"temperature": 0.7, "min_eos_p": 0.1}
    assert without_draws(defaults, {"temperature": 0.5}) == defaults


def by_stage(stage):
    return {setting.name for setting in SETTINGS if stage in setting.stages}


def test_the_type_of_the_settings_is_that_of_their_table():
    """Type checkers read source, so that GenerateSettings cannot be made of the table."""
    table = {
        name: PerRow[setting.kind | None] if setting.takes_none else PerRow[setting.kind]
        for setting in SETTINGS
        for name in setting.names
    }
    assert typing.get_type_hints(GenerateSettings) == table
    assert not GenerateSettings.__required_keys__


def test_the_settings_of_draws_are_those_of_the_stages_that_draw():
    draws = {field.name for field in dataclasses.fields(StageSampling)}
    assert draws <= by_stage("semantic") & by_stage("coarse")
    off = {setting.name: setting.off for setting in SETTINGS if setting.name in draws}
    assert StageSampling(**off) == StageSampling(1.0), "None draws as if without the setting"


def test_what_is_read_from_the_file_is_a_field_there():
    parts = dict(
        zip(STAGES, (SUNO.semantic_config, SUNO.coarse_acoustics_config, SUNO.fine_acoustics_config), strict=True)
    )
    for setting in (setting for setting in SETTINGS if setting.in_file):
        stages = set(setting.stages) - ({"fine"} if setting.name == "do_sample" else set())
        assert all(setting.name in parts[stage] for stage in stages), setting.name


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_checked_in_every_stage_that_has_it(setting):
    for name in setting.names:
        with pytest.raises(InputError, match=f"{name} is 'no such value', expected|{setting.name} is 'no such value'"):
            resolve({name: "no such value"})
    for stage in STAGES:
        expected = "is 'no such value', expected" if stage in setting.stages else f"no setting of the {stage} stage"
        with pytest.raises(InputError, match=expected):
            resolve_stage(stage, {setting.name: "no such value"}, 1, SUNO, TokenSpaces.from_config(SUNO))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_none_is_taken_by_the_settings_that_say_so(setting):
    if setting.takes_none:
        resolve({setting.name: None})
    else:
        with pytest.raises(InputError, match=f"{setting.name} is None, expected"):
            resolve({setting.name: None})


def test_an_error_has_the_name_that_was_given_or_the_file():
    with pytest.raises(InputError, match=r"^temperature is 0"):
        resolve({"temperature": 0})
    with pytest.raises(InputError, match=r"^coarse_temperature is 0"):
        resolve({"temperature": 1.0, "coarse_temperature": 0})
    hot = dataclasses.replace(
        SUNO, coarse_acoustics_config=dataclasses.replace(SUNO.coarse_acoustics_config, temperature=1e6)
    )
    with pytest.raises(InputError, match=r"^coarse_temperature of generation_config.json is 1000000.0"):
        resolve({}, config=hot)


def test_the_documentation_has_the_table():
    documented = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    rows = [line for line in documented.splitlines() if line.startswith("| `")]
    assert rows == [documented_row(setting) for setting in SETTINGS]


def documented_row(setting):
    takes = f"{setting.expected}; one value for all rows" if setting.is_shared else setting.expected
    left_out = "generation_config.json" if setting.in_file else "-" if setting.default is None else str(setting.default)
    names = setting.names[: 1 + len(setting.stages) * setting.has_stage_options] if setting.is_option else ()
    options = ", ".join(f"`--{name.replace('_', '-')}`" for name in names) or "-"
    does = f"{setting.help} {setting.note}".strip()
    return f"| `{setting.name}` | {', '.join(setting.stages)} | {does} | {takes} | {left_out} | {options} |"
