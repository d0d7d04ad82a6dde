import pytest

from persona4rec_pipeline.settings import SettingsError, describe_settings, load_settings, settings_file


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "persona4rec.toml").write_text('[encoder]\nepochs = 3\n[generation]\nengine = "openai"\n')
    settings = load_settings({"PERSONA4REC_GENERATION__ENGINE": "extractive"})
    assert (settings.encoder.epochs, settings.generation.engine, settings.encoder.batch_size) == (3, "extractive", 128)


def test_a_state_directory_may_carry_its_settings(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "persona4rec.toml").write_text("[encoder]\nepochs = 5\n")
    assert load_settings({"PERSONA4REC_HOME": str(tmp_path / "state")}).encoder.epochs == 5
    assert settings_file({}) is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"PERSONA4REC_GENERATION__ENGIN": "vllm"}, "PERSONA4REC_GENERATION__ENGIN"),
        ({"PERSONA4REC_GENERATION__ENGINE": "gpt"}, "PERSONA4REC_GENERATION__ENGINE"),
        ({"PERSONA4REC_ENCODER__EPOCHS": "many"}, "PERSONA4REC_ENCODER__EPOCHS"),
        ({"PERSONA4REC_EVALUATION__GENERATORS": "als,lightgcn"}, "PERSONA4REC_EVALUATION__GENERATORS"),
        ({"PERSONA4REC_EVALUATION__GENERATORS": '["als"'}, "PERSONA4REC_EVALUATION__GENERATORS"),
        ({"PERSONA4REC_EVALUATION__MAIN_GENERATOR": "file"}, "no candidates_file"),
        ({"PERSONA4REC_NOTHING": "1"}, "PERSONA4REC_NOTHING"),
        ({"PERSONA4REC_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
    ],
)
def test_an_unknown_key_or_bad_value_in_the_environment_is_an_error_that_names_it(environment, named):
    with pytest.raises(SettingsError, match=named):
        load_settings(environment)


@pytest.mark.parametrize("text", ["als, bpr", '["als", "bpr"]'])
def test_a_list_in_the_environment_is_json_or_separated_by_commas(text):
    settings = load_settings(
        {"PERSONA4REC_EVALUATION__GENERATORS": text, "PERSONA4REC_PERSONAS__ENCODER_LANGUAGES": "en,de"}
    )
    assert settings.evaluation.generators == ["als", "bpr"]
    assert settings.personas.encoder_languages == ["en", "de"]


def test_an_unknown_key_in_the_file_is_an_error_that_names_file_and_key(tmp_path):
    (tmp_path / "persona4rec.toml").write_text("[encoder]\nepoch = 3\n")
    with pytest.raises(SettingsError, match=r"persona4rec.toml: unknown setting encoder.epoch"):
        load_settings({})


def test_broken_toml_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "persona4rec.toml").write_text("[encoder\n")
    with pytest.raises(SettingsError, match=r"persona4rec.toml is not valid TOML"):
        load_settings({})


def test_home_does_not_move_with_the_working_directory(tmp_path, monkeypatch):
    settings = load_settings({"PERSONA4REC_EVALUATION__CANDIDATES_FILE": "a.csv"})
    monkeypatch.chdir("/")
    assert settings.evaluation.candidates_file == tmp_path / "a.csv"
    assert settings.home == tmp_path / "var"
    assert settings.warehouse_path.is_relative_to(settings.home)


def test_every_setting_says_what_it_means():
    rows = describe_settings(load_settings({}))
    assert len(rows) > 40
    assert all(meaning for _, _, meaning in rows)
