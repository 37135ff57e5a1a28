"""Rollbacks that are killed, and what is said of what is served."""

import os
import signal
import subprocess
import sys

import pytest

from recsys_assets.home.layout import Home
from recsys_assets.home.promotions import Promotions
from recsys_assets.home.settings import Settings
from recsys_assets.home.versions import AssetStore
from recsys_assets.recommender.promotion.gate import Configuration, Decision
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.running import copied, table

# A rollback that kills itself before an asset is switched in, or when the decision has been written down.
DIES = """
import os, signal, sys
from recsys_assets.home import promotions
from recsys_assets.home.versions import AssetStore
deadly, home = sys.argv[1:]
switch, write = AssetStore.switch, promotions.write_atomically

def die_before(self, version):
    if version.relative_to(self.root).parts[0] == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    switch(self, version)

def die_after(path, content):
    write(path, content)
    if deadly == "decision":
        os.kill(os.getpid(), signal.SIGKILL)

AssetStore.switch, promotions.write_atomically = die_before, die_after
from recsys_assets.cli import app
app(["rollback", "--home", home])
"""


def decided(home: Home, ranking_model: str, verdict: str = "promoted", reason: str = "as it was") -> int:
    """A decision in the record, about the present settings with this ranking model."""
    parameters = Settings.load(home).model_dump()
    configuration = Configuration.of(parameters, rating_model="stack", ranking_model=ranking_model)
    return Promotions(home.promotions).add(configuration, Decision(verdict, reason)).number  # type: ignore[arg-type]


def listed(home: Home) -> tuple[str, str]:
    """The number of the decision that `promotions` marks as served, and all that it prints."""
    shown = invoke("promotions", "--home", home.path)
    assert shown.exit_code == 0, shown.output
    (served,) = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("●")]
    return served, shown.stdout


def recommended(home: Home, user: str) -> list[str]:
    """The items that `recommend` shows."""
    shown = invoke("recommend", user, "--home", home.path)
    assert shown.exit_code == 0, shown.output
    return [line.split()[1] for line in shown.stdout.splitlines()[1:]]


@pytest.mark.slow
def test_a_killed_rollback_hides_nothing_and_is_gone_on_with(materialized_home, tmp_path):
    """Somebody would believe in lists that nobody is shown, and the command would refuse to be repeated."""
    home = copied(materialized_home, tmp_path / "home")
    with_blend = table(home, "recommendations")
    record = Promotions(home.promotions)
    (first,) = record.all()
    assert decided(home, "ease") == 2
    assert record.add(first.configuration, Decision("promoted", "as it was")).number == 3
    by_blend = recommended(home, "17")
    for deadly in ("decision", "serving_model", "recommendations"):
        process = subprocess.run([sys.executable, "-c", DIES, deadly, str(home.path)], env=os.environ, check=False)
        assert process.returncode == -signal.SIGKILL
        assert table(home, "recommendations").equals(with_blend)
        served, told = listed(home)
        model_is_new = deadly == "recommendations"
        assert served == ("4" if model_is_new else "3")
        assert (recommended(home, "17") != by_blend) == model_is_new
        assert "continue with: recsys-assets rollback --home" in told
    back = invoke("rollback", "--home", home.path)
    assert back.exit_code == 0, back.output
    served, told = listed(home)
    assert served == "4" and "continue with" not in told
    assert [each.verdict for each in record.all()] == [*["promoted"] * 3, "rolled back"]
    lists = table(home, "recommendations")
    assert not lists.equals(with_blend)
    assert recommended(home, "17") == lists.filter(user_id="17").sort("rank")["item_id"].to_list()
    again = invoke("rollback", "--home", home.path)
    assert again.exit_code == 1 and "Nothing to go back to" in again.stderr


def test_another_promotion_than_that_of_a_broken_off_rollback_can_be_named(materialized_home, tmp_path):
    """Whoever has gone back to the wrong promotion, and killed it, would be kept to it."""
    home = copied(materialized_home, tmp_path / "home")
    record, store = Promotions(home.promotions), AssetStore(home.assets)
    decided(home, "ease")
    decided(home, "popularity")
    assert decided(home, "ease", "rolled back") == 4
    broken_off = record.broken_off(store)
    assert broken_off and broken_off.number == 4
    assert record.earlier(broken_off=broken_off).number == 4
    for number in (1, 2, 3):
        assert record.earlier(number, broken_off=broken_off).number == number


def test_scores_and_run_say_what_is_shown_instead_of_what_is_selected(materialized_home, tmp_path):
    """Somebody would read the score of a better model, and look for its lists in vain."""
    home = copied(materialized_home, tmp_path / "home")
    assert "Users see configuration" not in invoke("scores", "--home", home.path).stdout
    decided(home, "ease", "kept", "The new settings do not beat the baseline.")
    told = invoke("scores", "--home", home.path).stdout.splitlines()[-1]
    assert (
        told.startswith("Users see configuration ") and "(stack, blend), not the one that is scored as selected" in told
    )
    assert "(stack, ease). The new settings do not beat the baseline." in told
    assert "Users see configuration" not in invoke("scores", "--json", "--home", home.path).stdout
    decided(home, "popularity")
    assert "are not complete yet" in invoke("scores", "--home", home.path).stdout
    decided(home, "blend", "rolled back", "Somebody went back to promotion 1.")
    assert "(stack, popularity). Somebody went back to promotion 1." in invoke("scores", "--home", home.path).stdout


def test_the_caption_says_which_baseline_is_shown(materialized_home):
    """Somebody would compare with popularity what is the item mean's score."""
    shown = " ".join(invoke("scores", "--home", materialized_home.path).stdout.split())
    assert "Baseline: the stronger of item mean and popularity." in shown
