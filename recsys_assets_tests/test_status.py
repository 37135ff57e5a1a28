from filelock import FileLock

from recsys_assets.home.layout import Home
from recsys_assets_tests.conftest import invoke
from recsys_assets_tests.running import copied


def _status(home, *arguments: str) -> tuple[int, dict[str, str], str]:
    """Exit status, the named lines, and the last line."""
    told = invoke("status", *arguments, "--home", home.path)
    *lines, last = told.stdout.splitlines()
    return told.exit_code, {line[:8].strip(): line[9:].strip() for line in lines}, last


def test_status_of_an_empty_home_says_how_to_begin(tmp_path):
    """A person who opens somebody else's home would not know that nothing has landed."""
    home = Home(tmp_path)
    home.prepare()
    code, lines, last = _status(home, "--check")
    assert code == 1
    assert lines["batches"] == "none" and lines["lists"] == "none yet"
    assert last.startswith("Next: recsys-assets add PATH")


def test_status_tells_what_is_served_and_that_nothing_is_to_do(materialized_home):
    """A monitor would start runs for ever, or nobody would see which model made the lists."""
    code, lines, last = _status(materialized_home, "--check")
    assert code == 0
    assert "(promotion 1)" in lines["lists"]
    assert lines["scores"].startswith("NDCG at 10 of the selected model") and "over popularity" in lines["scores"]
    assert lines["report"] == str(materialized_home.report)
    assert lines["at work"] == "nothing"
    assert last == "Nothing to do: lists and scores are up to date."


def test_status_sees_landed_files_and_a_run_at_work(materialized_home, tmp_path):
    """New ratings would wait without anybody noticing, or a second run would be started beside the first."""
    home = copied(materialized_home, tmp_path / "home")
    (home.landing / "new.csv").write_text("user_id,item_id,rating,timestamp\n1,1,4,978300760\n")
    code, lines, last = _status(home, "--check")
    assert code == 1 and last.startswith("Next: recsys-assets run")
    assert "1 not read yet" in lines["batches"]
    with FileLock(home.lock):
        code, lines, last = _status(home, "--check")
    assert (code, lines["at work"], last) == (0, "a run", "Wait until the run has ended.")


def test_status_asks_for_a_run_after_ratings_that_nothing_was_made_from(materialized_home, tmp_path):
    """Lists of the ratings before would pass for lists of the present ones."""
    home = copied(materialized_home, tmp_path / "home")
    _as_if_made_in(2098, home, "ratings")
    code, _, last = _status(home, "--check")
    assert code == 1 and last.startswith("Next: recsys-assets run")


def test_fresh_lists_are_fresh_whatever_the_age_of_the_scores(materialized_home, tmp_path):
    """Beside `serve`, an export that waits for fresh lists would wait for the scores of the weekly schedule."""
    home = copied(materialized_home, tmp_path / "home")
    _as_if_made_in(2098, home, "ratings")
    _as_if_made_in(2099, home, "recommendations")
    code, _, last = _status(home, "--check")
    assert code == 0 and last.startswith("Nothing to do: lists are up to date. Scores are older")


def _as_if_made_in(year: int, home: Home, asset: str) -> None:
    folder = home.assets / asset
    version = (folder / "current").resolve()
    later = version.rename(version.with_name(f"{year}{version.name[4:]}"))
    (folder / "current").unlink()
    (folder / "current").symlink_to(later.relative_to(folder.resolve()))
