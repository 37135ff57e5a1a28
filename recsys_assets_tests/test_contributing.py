"""What CONTRIBUTING.md says of the files to touch, tried on a copy of the package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recsys_assets

MODEL = (
    "recommender/registry/ratings.py",
    "\nENTRIES = (\n",
    """

def _middle(pairs: nw.LazyFrame) -> nw.LazyFrame:
    return pairs.select("user", "item", prediction=nw.lit(3.0))


ENTRIES = (
    Entry("middle", "time_cut", _middle),
""",
)
METRIC = (
    "recommender/evaluation/metrics.py",
    "    def coverage(self, own",
    '''    def bias(self, predictions: np.ndarray) -> UserMetric:
        """Mean of prediction - rating."""
        return UserMetric("bias", mean, (self.rows.per_user(predictions - self.rows.rating), self.count))

    def coverage(self, own''',
)
CALLED = (
    "recommender/evaluation/time_cut.py",
    "        measure.coverage(own),\n",
    "        measure.coverage(own),\n        measure.bias(complete),\n",
)
FORMAT = (
    ("recommender/ingest/detect.py", "FORMATS = {", 'FEATHER = "Feather"\nFORMATS = {FEATHER: "feather", '),
    ("recommender/ingest/detect.py", 'b"PAR1": PARQUET,', 'b"PAR1": PARQUET, b"ARROW1": FEATHER,'),
    ("recommender/ingest/records.py", "import PARQUET\n", "import FEATHER, PARQUET\n"),
    (
        "recommender/ingest/records.py",
        "COLUMNAR: Mapping[str, Columnar] = {",
        """def _feather(source: Source, name: str, columns: Sequence[str]) -> pl.LazyFrame:
    frame = pl.scan_ipc(source.file(name)).select(columns).with_row_index(LINE, offset=1)
    nothing = [pl.lit(None, pl.String).alias(name) for name in (TEXT, PROBLEM)]
    return frame.with_columns(pl.col(LINE).cast(pl.Int64), *nothing)


COLUMNAR: Mapping[str, Columnar] = {
    FEATHER: Columnar(lambda source, name: pl.scan_ipc(source.file(name)).collect_schema(), _feather),
    """,
    ),
)
REFUSED = """
try:
    import recsys_assets.recommender.registry
except ValueError as error:
    print(error)
"""
READ = """
from pathlib import Path
import polars as pl
from recsys_assets.recommender.ingest.sources import read_source

file = Path("ratings.feather")
pl.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"], "rating": [4.0, 3.0], "timestamp": [10, 20]}).write_ipc(file)
tables = read_source(file, scratch=Path("scratch"))
print(tables.format, *tables.ratings.collect()["rating"])
"""
SHOP = (
    (
        "recommender/ingest/shop.py",
        "",
        '''"""Reads the export of a shop: grades.csv and articles.csv."""

from dataclasses import replace

from recsys_assets.recommender.ingest.generic import read_generic
from recsys_assets.recommender.ingest.sheets import sheet

COLUMNS = {"user_id": "buyer", "item_id": "article", "rating": "grade", "timestamp": "bought", "title": "label"}
FILES = ("grades.csv", "articles.csv")


def is_shop(contents):
    return {*FILES} <= {content.name for content in contents}


def read_shop(source, contents, rules):
    own = replace(rules, columns={**COLUMNS, **rules.columns})
    files = [sheet(source, content, own) for content in contents if content.name in FILES]
    return replace(read_generic(source, files, own), format="shop")
''',
    ),
    (
        "recommender/ingest/sources.py",
        "    sheets = [sheet(",
        """    from recsys_assets.recommender.ingest.shop import is_shop, read_shop

    if is_shop(contents):
        return read_shop(source, contents, rules)
    sheets = [sheet(""",
    ),
)
READ_SHOP = """
from pathlib import Path
from recsys_assets.recommender.ingest.sources import read_source

files = {
    "grades.csv": "buyer;article;grade;bought\\n1;a;4,5;2020-01-02\\n2;b;0;2020-01-03\\n",
    "articles.csv": "article;label\\na;Tea\\n",
    "returns.csv": "buyer;reason\\n3;broken\\n",
    "chat.csv": "2020-01-02;4;hello\\n",
}
Path("export").mkdir()
for name, text in files.items():
    (Path("export") / name).write_text(text)
tables = read_source(Path("export"), scratch=Path("scratch"), not_rated=[0])
unread = [each.name if isinstance(each, Path) else each.collect()["user_id"].to_list() for each in tables.unread()]
print(tables.format, *tables.ratings.collect()["rating"], *tables.items.collect()["title"], unread)
"""
SCORED = """
import polars as pl
from recsys_assets.home.layout import Home
from recsys_assets.orchestration.build import build_defs
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.splitting import cut_in_time
from recsys_assets.recommender.evaluation import protocols
from recsys_assets.recommender.registry.fitting import entry

graph = build_defs(home=Home.resolve()).get_repository_def().asset_graph
assert "predictions/time_cut/middle" in {key.to_user_string() for key in graph.materializable_asset_keys}
ratings = lazy(pl.DataFrame(
    {"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": [2.0, 4.0, 4.0, 4.0], "timestamp": [1, 5, 2, 6]},
    schema={"user": pl.Int32, "item": pl.Int32, "rating": pl.Float64, "timestamp": pl.Int64},
).with_columns(batch=pl.lit("toy"), row=pl.int_range(4)))
tables = {f"{side}_ratings": cut_in_time(ratings, side, cut=0.5) for side in ("train", "test")}
tables |= {name: lazy(pl.DataFrame({name[:-1]: [0, 1]}, schema={name[:-1]: pl.Int32})) for name in ("users", "items")}
middle, mean = entry("time_cut", "middle"), entry("time_cut", "item_mean")
predictions = {middle: middle.predict(tables), mean: middle.predict(tables)}
result = protocols.measured("time_cut", tables, predictions, selected={"time_cut": "middle"})
scores = result.scores(seed=0, n_resamples=9)
print(scores.filter(model="middle", metric="bias", population="all")["value"].item())
"""


def _printed(tmp_path: Path, script: str, *changes: tuple[str, str, str]) -> str:
    """What a script prints with a copy of the package in which texts are replaced; "" is the text of a new file."""
    folder = Path(recsys_assets.__file__).parent
    shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in changes:
        path = tmp_path / folder.name / file
        text = path.read_text() if old else ""
        assert text.count(old) == 1, (file, old)
        path.write_text(text.replace(old, new))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PYTHONPATH": str(tmp_path), "RECSYS_HOME": str(tmp_path / "home"), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def test_a_model_and_a_metric_need_no_other_files_than_the_table_names(tmp_path):
    """Whoever adds a model or a metric as CONTRIBUTING says would look in vain for it in the graph or the scores."""
    assert float(_printed(tmp_path, SCORED, MODEL, METRIC, CALLED)) == -1.0


def test_a_format_needs_no_other_files_than_the_table_names(tmp_path):
    """Whoever adds a columnar format as CONTRIBUTING says would find it detected and then read as Parquet."""
    assert _printed(tmp_path, READ, *FORMAT) == "feather 4.0 3.0\n"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ((MODEL[0], MODEL[1], '\nENTRIES = (\n    Entry("stack", "time_cut", "stack_model"),\n'), "time_cut/stack"),
        (("recommender/registry/top_n.py", "\nFITS = (", "\nFITS = (EASE, "), "ease_model"),
    ],
)
def test_a_name_that_is_taken_is_refused_by_the_registry(tmp_path, change, name):
    """Whoever gives a model a name that is taken would read only Dagster's `Duplicate asset key`, without a file."""
    told = _printed(tmp_path, REFUSED, change)
    assert "recommender/registry/" in told and f"{name} more than once" in told


def test_a_folder_with_columns_of_its_own_needs_no_other_files_than_the_table_names(tmp_path):
    """A reader that is written as CONTRIBUTING says disobeys settings, or hides forgotten users in its other files."""
    assert _printed(tmp_path, READ_SHOP, *SHOP) == "shop 4.5 Tea ['chat.csv', ['3']]\n"
