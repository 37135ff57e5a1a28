import tomllib

import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings, SettingsError
from recsys_assets.home.tuned_settings import overruled, tuned_settings, write_tuned


def test_what_was_chosen_is_what_is_trained_with(tmp_path):
    """A study would end without any effect."""
    home = Home(tmp_path)
    changed = write_tuned(
        home, {"als.rank": 50, "als.reg_param": 0.05, "evaluation.selected_rating_model": "item_mean"}
    )
    assert changed == {
        "als.rank": (None, 50),
        "als.reg_param": (None, 0.05),
        "evaluation.selected_rating_model": (None, "item_mean"),
    }
    settings = Settings.load(home)
    assert (settings.als.rank, settings.als.reg_param) == (50, 0.05)
    assert settings.evaluation.selected_rating_model == "item_mean"
    assert settings.als.max_iter == Settings().als.max_iter


def test_a_study_of_a_part_keeps_what_others_chose(tmp_path):
    """Studying segments alone would put the ranks back to the built-in ones."""
    home = Home(tmp_path)
    write_tuned(home, {"als.rank": 50, "segments.n_segments": 40})
    assert write_tuned(home, {"segments.n_segments": 10}) == {"segments.n_segments": (40, 10)}
    assert tuned_settings(home) == {"als.rank": 50, "segments.n_segments": 10}
    assert write_tuned(home, {"segments.n_segments": 10}) == {}


def test_the_file_says_where_it_comes_from(tmp_path):
    """Somebody would edit a file that the next study changes."""
    home = Home(tmp_path)
    write_tuned(home, {"als.rank": 50})
    text = home.tuned_file.read_text()
    assert "recsys-assets study" in text and "settings.toml" in text
    assert tomllib.loads(text) == {"als": {"rank": 50}}


def test_the_users_own_settings_that_go_before_are_told(tmp_path):
    """A study would choose a rank, and nobody would see why another one is trained."""
    home = Home(tmp_path)
    home.settings_file.write_text("[als]\nrank = 7\n")
    write_tuned(home, {"als.rank": 50, "als.max_iter": 15})
    assert overruled(tuned_settings(home), Settings.load(home)) == {"als.rank": 7}


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"[als\n", "line 1"), ("# ü".encode("latin-1"), "line 1: not UTF-8"), (b'engine = "spark"\n', "'engine'")],
)
def test_a_file_that_somebody_has_broken_is_named(tmp_path, content, told):
    """A study would end in a traceback after hours of trials."""
    home = Home(tmp_path)
    home.tuned_file.write_bytes(content)
    with pytest.raises(SettingsError, match=told) as error:
        write_tuned(home, {"als.rank": 50})
    assert str(home.tuned_file) in str(error.value)
    assert home.tuned_file.read_bytes() == content
