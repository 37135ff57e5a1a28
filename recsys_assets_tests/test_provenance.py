import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import recsys_assets
from recsys_assets.orchestration.assets.study import _defaults
from recsys_assets.recommender.registry import ENTRIES, FITS
from recsys_assets.recommender.registry.provenance import Sources

Codes = Mapping[tuple[str, str], str]
EASE, DEMOGRAPHIC_POPULARITY = ("top_n", "ease"), ("top_n", "demographic_popularity")


@pytest.fixture
def codes(tmp_path) -> Callable[..., Codes]:
    """Hashes of all entries after a file of a copy of the package was changed."""
    folder = Path(recsys_assets.__file__).parent
    shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))

    def of(file: str = "", old: str = "", new: str = "") -> Codes:
        if file:
            path = tmp_path / folder.name / "recommender" / file
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new, 1))
        sources, parameters = Sources(tmp_path), _defaults()
        return {
            (entry.task, entry.name): sources.code_of_model(entry, parameters, "tuning.validating") for entry in ENTRIES
        }

    return of


def _changed(before: Codes, after: Codes) -> set[tuple[str, str]]:
    return {key for key in before if before[key] != after[key]}


def test_a_trial_counts_as_long_as_the_code_that_computes_it_is_the_same(codes, tmp_path):
    """A study would take over scores of other code, or fit hours of models again because of a comment or a release."""
    first = codes()
    assert codes() == first
    [kept] = tmp_path.rglob("provenance.*.json")
    for damaged in ("", "[1]", '{"recsys_assets.recommender": 1}', kept.read_text()[:-9]):
        kept.write_text(damaged)
        assert codes() == first
    assert first == codes("models/ease.py", '"""', '"""Another sentence. ')
    assert codes("models/ease.py", "\nimport", "\n# A comment.\nimport") == first
    assert codes("models/ease.py", 'description="', 'description="Said in other words. ') == first
    assert codes("models/ease.py", '"auto * 0.1", ', '"auto * 0.1", "auto * 0.2", ') == first
    of_ease = _changed(first, second := codes("models/ease.py", "\ndef fit(", "\nCHANGED = 1\n\n\ndef fit("))
    assert EASE in of_ease and ("top_n", "blend") in of_ease and DEMOGRAPHIC_POPULARITY not in of_ease
    of_entry = _changed(second, third := codes("registry/top_n.py", "scored[others] = ", "scored[others] = 1.0 * "))
    assert EASE in of_entry and DEMOGRAPHIC_POPULARITY not in of_entry and ("time_cut", "item_mean") not in of_entry
    assert len(_changed(third, codes("evaluation/metrics.py", "\ndef ", "\nCHANGED = 1\n\n\ndef "))) == len(ENTRIES)


def test_code_versions_follow_the_code_behind_an_asset_and_no_other(tmp_path):
    """After an upgrade everything would look outdated, or a backtest of other models like one of the present ones."""
    folder = Path(recsys_assets.__file__).parent
    shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / folder.name / "recommender" / "models" / "transitions.py"
    changed.write_text(changed.read_text() + "\n_CHANGED = True\n")
    present, other = Sources(), Sources(tmp_path)
    assert {fit.asset for fit in FITS if present.code_of_fit(fit) != other.code_of_fit(fit)} == {"transition_model"}
    splitting = "recsys_assets.orchestration.assets.splitting"
    assert present.code_of_module(splitting) == other.code_of_module(splitting)
    assert present.code_of_everything(FITS, ENTRIES) != other.code_of_everything(FITS, ENTRIES)
