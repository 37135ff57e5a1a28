"""Seconds from a file dropped into landing/ to recommendations for its new users, on MovieLens 100K, served for real.

Most of the archive is there and recommended from; the ratings of the last users are dropped into a home that is served.
Usage: python benchmarks/new_data.py [ARCHIVE]
"""

import sys
import tempfile
import time
import zipfile
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from recsys_assets.home import Home  # noqa: E402
from recsys_assets_tests.conftest import invoke  # noqa: E402
from recsys_assets_tests.running import table  # noqa: E402
from recsys_assets_tests.served import served, wait_for  # noqa: E402

ARCHIVE = ROOT.parent / "shared" / "data" / "ml-100k.zip"
N_NEW = 40


def main() -> None:
    """Split the archive, run, serve, drop, wait."""
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else ARCHIVE
    if not archive.exists():
        sys.exit(f"{archive} is not there; name ml-100k.zip, as `recsys-assets fetch ml-100k` gets it")
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        home.prepare()
        dropped = home.path / "new.csv"
        new = _split(archive, home.landing / "most", dropped)
        ran = invoke("run", "--home", home.path)
        if ran.exit_code:
            sys.exit(ran.output)
        with served(home):
            begun = time.perf_counter()
            dropped.rename(home.landing / dropped.name)
            seconds = {
                asset: wait_for(
                    asset, lambda asset=asset: _knows(home, asset, new) and time.perf_counter() - begun, 900
                )
                for asset in ("users", "recommendations")
            }
    print(f"ingested after {seconds['users']:.0f} s, recommended after {seconds['recommendations']:.0f} s")


def _knows(home: Home, asset: str, users: set[str]) -> bool:
    return users <= set(table(home, asset)["user_id"])


def _split(archive: Path, most: Path, dropped: Path) -> set[str]:
    """The archive without its last users as a folder, and their ratings as a CSV file; their ids."""
    most.mkdir()
    with zipfile.ZipFile(archive) as files:
        for member in ("u.data", "u.item", "u.user", "u.genre"):
            (name,) = (name for name in files.namelist() if name.endswith(f"/{member}"))
            (most / member).write_bytes(files.read(name))
    columns = ["user_id", "movie_id", "rating", "timestamp"]
    ratings = pl.read_csv(most / "u.data", separator="\t", has_header=False, new_columns=columns)
    is_new = pl.col("user_id") > ratings["user_id"].n_unique() - N_NEW
    ratings.filter(~is_new).write_csv(most / "u.data", separator="\t", include_header=False)
    ratings.filter(is_new).write_csv(dropped)
    kept = [line for line in (most / "u.user").read_text().splitlines() if int(line.split("|")[0]) <= 943 - N_NEW]
    (most / "u.user").write_text("\n".join(kept) + "\n")
    return {str(user) for user in ratings.filter(is_new)["user_id"].unique()}


if __name__ == "__main__":
    main()
