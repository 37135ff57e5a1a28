"""The whole pipeline as one plain script: the same `recommender` calls in the same order, the same files, no Dagster.

What `orchestration.py` holds the Dagster run against. Usage: python benchmarks/plain.py ARCHIVE FOLDER
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from recsys_assets.home.layout import Home
from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import conform, lazy, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.tables import PREDICTIONS, TABLES, Table
from recsys_assets.recommender.evaluation.scores import all_scores
from recsys_assets.recommender.features import clusters
from recsys_assets.recommender.ingest import merge
from recsys_assets.recommender.ingest.sources import read_source
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.registry import ENTRIES, FITS, Derived
from recsys_assets.recommender.registry.derived import (
    ADJUSTED_TRAIN_RATINGS,
    CLUSTER_RATINGS,
    SEGMENT_RATINGS,
    USER_CLUSTERS,
    USER_SEGMENTS,
)
from recsys_assets.recommender.registry.fitting import ModelFitter
from recsys_assets.recommender.report.page import ReportInputs, render_page
from recsys_assets.recommender.serving import recommendations as serving
from recsys_assets.recommender.tuning.quick import Choice, quick_choice
from recsys_assets.recommender.tuning.tuning import chosen


class Folder:
    """Writes tables and models, and hands them on as they were stored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: dict[str, object] = {}

    def table(self, name: str, frame: nw.LazyFrame | pl.DataFrame, declared: Table | None = None) -> nw.LazyFrame:
        """Store a table as declared and scan it."""
        table = declared or TABLES[name]
        rows = conform(lazy(frame) if isinstance(frame, pl.DataFrame) else frame, table)
        path = self.path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        (rows.sort(*table.order) if table.order else rows).sink_parquet(str(path))
        self.made[name] = nw.from_native(pl.scan_parquet(path))
        return self.made[name]

    def model(self, name: str, model: object) -> object:
        """Store a model and load it."""
        folder = self.path / name
        folder.mkdir()
        model.save(folder)
        self.made[name] = type(model).load(folder)
        return self.made[name]


def run(archive: Path, folder: Path, settings: Settings) -> None:
    """Everything, from the archive to the report."""
    folder.mkdir(parents=True)
    out = Folder(folder)
    _ingest(out, archive, folder)
    _split(out, settings)
    index = Index.of(out.made["users"], out.made["items"])
    _cluster(out, settings)
    settings = _chosen(out, settings)
    for fit in FITS:
        if fit.table == "adjusted_train_ratings":
            _fill(out, settings, index)
        out.model(fit.asset, fit.make(out.made, settings.model_dump(), index=index))
        if fit.asset == "segment_model":
            _segment(out, index, settings)
    for entry in ENTRIES:
        rows = entry.predict({name: out.made[name] for name in entry.needs})
        out.table(f"predictions/{entry.task}/{entry.name}", rows, PREDICTIONS[entry.task])
    made = out.made
    _serve(out, settings)
    predictions = {entry: made[f"predictions/{entry.task}/{entry.name}"] for entry in ENTRIES}
    out.table("evaluation_scores", all_scores(made, predictions, **settings.evaluation.model_dump()))
    _report(out, settings)


def _ingest(out: Folder, archive: Path, folder: Path) -> None:
    source = read_source(archive, scratch=folder / "scratch")
    raw = {name: [out.table(f"raw_{name}", lazy(getattr(source, name)))] for name in ("ratings", "users", "items")}
    out.table("rejected_rows", lazy(source.rejected))
    users = out.table("users", merge.index_users(raw["users"], raw["ratings"]))
    items = out.table("items", merge.index_items(raw["items"], raw["ratings"]))
    out.table("ratings", merge.merge_ratings(raw["ratings"], users, items))


def _split(out: Folder, settings: Settings) -> None:
    ratings, users = out.made["ratings"], out.made["users"]
    parameters = settings.splitting
    for side in ("train", "test"):
        out.table(f"{side}_ratings", splitting.cut_in_time(ratings, side, cut=parameters.parsed_cut))
    partition = out.table(
        "user_partition", splitting.partition_users(users, train_share=parameters.train_share, seed=parameters.seed)
    )
    for side in ("train", "test"):
        out.table(f"{side}_histories", splitting.histories(ratings, partition, side))
        out.table(f"{side}_responses", splitting.responses(ratings, partition, side))


def _cluster(out: Folder, settings: Settings) -> None:
    features = out.table("user_features", clusters.user_features(out.made["users"]))
    out.table("cluster_sweep", clusters.sweep(features, settings=settings.clusters))
    _derive(out, USER_CLUSTERS, settings)


def _chosen(out: Folder, settings: Settings) -> Settings:
    """The settings with what the quick choice chooses."""
    given = {"trials": out.path / "trials", "code": "", "seed": settings.study.seed}
    found = quick_choice(out.made, settings.model_dump(), **given)
    return Settings.model_validate(Choice(chosen(found)).applied(settings.model_dump()))


def _derive(out: Folder, table: Derived, settings: Settings, index: Index | None = None) -> None:
    out.table(table.asset, table.make(out.made, settings.model_dump(), index=index))


def _fill(out: Folder, settings: Settings, index: Index) -> None:
    _derive(out, CLUSTER_RATINGS, settings, index)
    _derive(out, ADJUSTED_TRAIN_RATINGS, settings)


def _segment(out: Folder, index: Index, settings: Settings) -> None:
    made = out.made
    listed = segments.top_items(made["segment_model"], made["items"], made["train_histories"])
    out.table("segment_items", listed)
    _derive(out, USER_SEGMENTS, settings)
    _derive(out, SEGMENT_RATINGS, settings)
    sized = segments.SizedSegments.of(
        made["segment_model"], made["user_segments"], made["items"], n_users=index.n_users
    )
    out.table("segment_shares", segments.ComparedSegments(sized).table)


def _serve(out: Folder, settings: Settings) -> None:
    made, ratings = out.made, out.made["ratings"]
    tables = {name: made[name] for name in ("users", "items", "user_features", "user_clusters")}
    parameters = settings.model_dump()
    fitter = ModelFitter({**tables, "train_ratings": ratings}, parameters)
    model = out.model("serving_model", serving.fit(settings.evaluation.selected_ranking_model, fitter))
    ranker = model.ranker(ratings, tables)
    items = to_polars(made["items"], "item", "item_id", "title").sort("item")
    everything = np.ones(len(items), bool)
    make = serving.Lists(ranker, items, n=settings.serving.n, allowed=everything, excludes_all=True)
    out.table("recommendations", make(to_polars(made["users"], "user", "user_id").sort("user"), ratings))


def _report(out: Folder, settings: Settings) -> None:
    names = [name for name in ReportInputs.__dataclass_fields__ if name in TABLES]
    page = render_page(
        ReportInputs(
            **{name: out.made[name] for name in names},
            settings=settings.model_dump(),
            versions={},
            generated=datetime.now(UTC),
        )
    )
    (out.path / "report.html").write_text(page)


if __name__ == "__main__":
    target = Path(sys.argv[2])
    run(Path(sys.argv[1]), target, Settings.load(Home(target)))
