"""The sides of the comparisons of `compare.py`. Each runs in a process of its own and prints one line of JSON.

A side is a function from the folder of prepared data to the work that is timed and to a function that tells figures of
its result. Imports, the start of a JVM, reading the data and a small run for compilation come before the work. Other
packages have environments without recsys_assets, so the data is NumPy arrays, and every import of a package is inside
its side.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Side = tuple[Callable[[], Any], Callable[[Any], dict[str, float]]]

# Explicit ALS, and what both ways of implicit ALS share.
RANK, REG, ITERATIONS = 20, 0.1, 10
IMPLICIT_RANK = 32
TOP, SEGMENTS = 10, 20
METRICS = ("ndcg", "recall", "precision", "map", "mrr", "hit_rate")
# Rows of the small run before the work.
_FEW = 2_000
_THREADS = os.cpu_count() or 1


def arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of prepared rows: user and item (dense ids, int32), rating or rank."""
    with np.load(folder / f"{name}.npz") as stored:
        return dict(stored)


def shape(folder: Path) -> tuple[int, int]:
    """Number of users and of items."""
    facts = json.loads((folder / "facts.json").read_text())
    return facts["users"], facts["items"]


def _matrix(folder: Path, rows: dict[str, np.ndarray], value: str = "rating") -> Any:
    from scipy import sparse

    return sparse.csr_matrix((rows[value], (rows["user"], rows["item"])), shape=shape(folder))


def _table(folder: Path, name: str) -> Any:
    import polars as pl

    from recsys_assets.recommender.data.frames import lazy

    return lazy(pl.DataFrame(arrays(folder, name)))


def _index(folder: Path) -> Any:
    from recsys_assets.recommender.data.index import Index

    return Index(*shape(folder), "compare")


def _session(folder: Path) -> Any:
    from recsys_assets.home.settings import Settings
    from recsys_assets.orchestration.resources import spark_resource

    return spark_resource(Settings().spark, folder / "spark").spark_session


def _rmse(folder: Path, users: np.ndarray, items: np.ndarray) -> dict[str, float]:
    """Of the test ratings whose user and item have factors."""
    test = arrays(folder, "test")
    own, others = users[test["user"]].astype(np.float64), items[test["item"]].astype(np.float64)
    known = own.any(axis=1) & others.any(axis=1)
    errors = (np.einsum("ij,ij->i", own, others) - test["rating"])[known]
    return {"rmse": float(np.sqrt((errors**2).mean()))}


def segments_ours(folder: Path) -> Side:
    """Fit with the built-in settings on nine tenths of the users, affinities of all users."""
    from recsys_assets.recommender.features.matrices import user_item_matrix
    from recsys_assets.recommender.models.segments import model as segments

    fitted, held, everybody = (_table(folder, name) for name in ("fitted", "held", "train"))
    _, matrix = user_item_matrix(everybody, n_items=shape(folder)[1])
    settings, index = segments.SegmentSettings(), _index(folder)
    segments.fit(fitted.head(_FEW), index=index, settings=settings).transform(matrix[:10])

    def work() -> segments.SegmentModel:
        model = segments.fit(fitted, index=index, settings=settings)
        model.transform(matrix)
        return model

    return work, lambda model: _perplexity(model, held)


def segments_sklearn(folder: Path) -> Side:
    """The same with scikit-learn and the settings of case study B."""
    from sklearn.decomposition import LatentDirichletAllocation

    from recsys_assets.recommender.models.segments.model import SegmentModel

    rows, everybody = arrays(folder, "fitted"), arrays(folder, "train")
    items = np.unique(rows["item"])
    fitted, matrix = (_matrix(folder, one)[:, items].astype(np.float64) for one in (rows, everybody))
    fitted = fitted[np.diff(fitted.indptr) > 0]

    def work() -> LatentDirichletAllocation:
        lda = LatentDirichletAllocation(
            SEGMENTS,
            learning_method="online",
            max_iter=5,
            batch_size=128,
            learning_offset=50.0,
            learning_decay=0.7,
            random_state=0,
            n_jobs=_THREADS,
        ).fit(fitted)
        lda.transform(matrix)
        return lda

    n_items, held = shape(folder)[1], _table(folder, "held")
    return work, lambda lda: _perplexity(SegmentModel(lda, items.astype(np.int32), n_items, "compare"), held)


def _perplexity(model: Any, held: Any) -> dict[str, float]:
    from recsys_assets.recommender.models.segments.perplexity import held_out_perplexity

    return {"perplexity": held_out_perplexity(model, held)}


def als_ours(folder: Path) -> Side:
    """Fit explicit ALS as the pipeline calls it, from a table in memory to a model in memory."""
    from recsys_assets.recommender.models import als

    work = _als(folder, als.ALSSettings(rank=RANK, reg_param=REG, max_iter=ITERATIONS), _table(folder, "train"))
    return work, lambda model: _explicit(folder, "ours", model)


def als_spark(folder: Path) -> Side:
    """Fit the same in Spark, as the pipeline does with the engine Spark."""
    import narwhals as nw
    import polars as pl

    from recsys_assets.recommender.models import als

    path = folder / "train.parquet"
    pl.DataFrame(arrays(folder, "train")).write_parquet(path)
    settings = als.ALSSettings(rank=RANK, reg_param=REG, max_iter=ITERATIONS)
    work = _als(folder, settings, nw.from_native(_session(folder).read.parquet(str(path))))
    return work, lambda model: _explicit(folder, "spark", model)


def _explicit(folder: Path, side: str, model: Any) -> dict[str, float]:
    np.savez(folder / f"als_{side}.npz", users=model.user_factors, items=model.item_factors)
    return _rmse(folder, model.user_factors, model.item_factors)


def als_cmfrec(folder: Path) -> Side:
    """The same objective: no biases, regularisation times the number of ratings, solved exactly, float32."""
    from cmfrec import CMF

    train = _matrix(folder, arrays(folder, "train")).tocoo()

    def fitted(cells: Any, iterations: int) -> Any:
        return CMF(
            k=RANK,
            lambda_=REG,
            scale_lam=True,
            method="als",
            niter=iterations,
            use_cg=False,
            user_bias=False,
            item_bias=False,
            center=False,
            use_float=True,
            precompute_for_predictions=False,
            produce_dicts=False,
            verbose=False,
            random_state=0,
            nthreads=_THREADS,
        ).fit(cells)

    fitted(train.tocsr()[:_FEW].tocoo(), 1)
    return lambda: fitted(train, ITERATIONS), lambda model: _rmse(folder, model.A_, model.B_)


def implicit_als_ours(folder: Path) -> Side:
    """Fit implicit ALS as the pipeline calls it. The model is kept for lists."""
    from recsys_assets.recommender.models import als

    settings = als.ImplicitALSSettings(rank=IMPLICIT_RANK, max_iter=ITERATIONS)
    kept = folder / "implicit_als"

    def told(model: als.ALSModel) -> dict[str, float]:
        if not kept.exists():
            kept.mkdir()
            model.save(kept)
        return {}

    return _als(folder, settings, _table(folder, "train")), told


def _als(folder: Path, settings: Any, train: Any) -> Callable[[], Any]:
    from recsys_assets.recommender.models import als

    index = _index(folder)
    als.fit(train.head(_FEW), index=index, settings=settings)
    return lambda: als.fit(train, index=index, settings=settings)


def implicit_als_package(folder: Path) -> Side:
    """The package's default solver, conjugate gradients, on the preferences above 0."""
    from implicit.als import AlternatingLeastSquares

    liked = _matrix(folder, arrays(folder, "liked"))

    def fitted(cells: Any) -> None:
        AlternatingLeastSquares(factors=IMPLICIT_RANK, iterations=ITERATIONS, random_state=0, num_threads=_THREADS).fit(
            cells, show_progress=False
        )

    fitted(liked[:_FEW])
    return lambda: fitted(liked), lambda _: {}


def ease_ours(folder: Path) -> Side:
    """From the table of ratings to weights of the most rated items."""
    from recsys_assets.recommender.models import ease

    train, index, settings = _table(folder, "train"), _index(folder), ease.EASESettings()
    ease.fit(train.head(_FEW), index=index, settings=settings)

    def told(model: ease.EASEModel) -> dict[str, float]:
        np.save(folder / "ease_ours.npy", model.weights)
        return {"items": float(len(model.items))}

    return lambda: ease.fit(train, index=index, settings=settings), told


def ease_rectools(folder: Path) -> Side:
    """From the data set of the package, made of the same preferences, to weights."""
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import EASEModel

    rows = arrays(folder, "preferences")
    interactions = pd.DataFrame(
        {"user_id": rows["user"], "item_id": rows["item"], "weight": rows["rating"], "datetime": "2020-01-01"}
    )
    dataset = Dataset.construct(interactions)
    reg = json.loads((folder / "facts.json").read_text())["reg"]

    def told(model: EASEModel) -> dict[str, float]:
        # The package numbers items as they occur.
        order = np.argsort(dataset.item_id_map.external_ids)
        np.save(folder / "ease_rectools.npy", model.weight[np.ix_(order, order)])
        return {"items": float(len(order))}

    return lambda: EASEModel(regularization=reg, recommend_n_threads=_THREADS).fit(dataset), told


def lists_ours(folder: Path) -> Side:
    """The lists of all users with reasons and titles, rated items left out: the table `recommendations`."""
    return _lists_ours(folder, with_reasons=True)


def lists_ours_without_reasons(folder: Path) -> Side:
    """The lists of all users as numbers, rated items left out, as `implicit` makes them."""
    return _lists_ours(folder, with_reasons=False)


def _lists_ours(folder: Path, *, with_reasons: bool) -> Side:
    import polars as pl

    from recsys_assets.recommender.models.als import ALSModel
    from recsys_assets.recommender.ranking.rankings import top_n
    from recsys_assets.recommender.registry.fitting import entry
    from recsys_assets.recommender.serving.recommendations import Lists

    users, items = (pl.read_parquet(folder / f"{name}.parquet") for name in ("users", "items"))
    model = ALSModel.load(folder / "implicit_als")
    clusters = _lazy(users.select("user", cluster=pl.lit(0, pl.Int32)))
    ranker = entry("top_n", "implicit_als").ranker(implicit_als_model=model, user_clusters=clusters)
    make = Lists(ranker, items, n=TOP, allowed=np.ones(len(items), bool), excludes_all=True)
    train = _table(folder, "train")

    def made(some: pl.DataFrame) -> pl.DataFrame:
        return make(some, train) if with_reasons else top_n(ranker, train, some["user"].to_numpy(), n=TOP)

    made(users.head(50))

    def told(lists: pl.DataFrame) -> dict[str, float]:
        if not with_reasons:
            np.save(folder / "lists_ours.npy", lists["item"].to_numpy().reshape(-1, TOP))
        return {"lists": float(lists.n_unique(lists.columns[0]))}

    return lambda: made(users), told


def _lazy(frame: Any) -> Any:
    from recsys_assets.recommender.data.frames import lazy

    return lazy(frame)


def lists_spark(folder: Path) -> Side:
    """`recommendForAllUsers` with the same factors: no item is left out, no reasons, nothing is written."""
    from pyspark.ml.recommendation import ALSModel

    spark = _session(folder)
    frames = [
        spark.read.parquet(str(folder / "implicit_als" / f"{side}_factors.parquet")).toDF("id", "features").cache()
        for side in ("user", "item")
    ]
    n_users = frames[0].count()
    frames[1].count()
    of_jvm = spark._jvm.org.apache.spark.ml.recommendation.ALSModel
    java_model = of_jvm("compare", IMPLICIT_RANK, *(frame._jdf for frame in frames))
    model = ALSModel(java_model.setUserCol("user").setItemCol("item"))

    def work() -> None:
        model.recommendForAllUsers(TOP).write.format("noop").mode("overwrite").save()

    few = frames[0].limit(100).withColumnRenamed("id", "user")
    model.recommendForUserSubset(few, TOP).write.format("noop").mode("overwrite").save()
    return work, lambda _: {"lists": float(n_users)}


def lists_implicit(folder: Path) -> Side:
    """`recommend`, from rows of ratings on, with the same factors, rated items left out, without reasons."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=IMPLICIT_RANK, num_threads=_THREADS)
    model.user_factors, model.item_factors = (np.load(folder / f"{side}_factors.npy") for side in ("user", "item"))
    train, users = arrays(folder, "train"), np.arange(shape(folder)[0])

    def made(some: np.ndarray) -> np.ndarray:
        # Ours begins with rows, too.
        rated = _matrix(folder, train)
        return model.recommend(some, rated[some], N=TOP, filter_already_liked_items=True)[0]

    made(users[:50])

    def told(lists: np.ndarray) -> dict[str, float]:
        np.save(folder / "lists_implicit.npy", lists)
        return {"lists": float(len(lists))}

    return lambda: made(users), told


def metrics_ours(folder: Path) -> Side:
    """From tables of lists and of test ratings to the metrics of each model."""
    from recsys_assets.recommender.data.frames import to_polars
    from recsys_assets.recommender.evaluation.top_n import measure_top_n

    train, test, lists = (_table(folder, name) for name in ("train", "relevant", "lists"))
    rankings = {name: _lazy(to_polars(lists.filter(model=place).drop("model"))) for place, name in _models(folder)}

    def measured(rows: Any) -> Any:
        return measure_top_n(train, rows, rankings, n_items=shape(folder)[1], selected="0", relevant_from=0, k=TOP)

    measured(test.head(_FEW))

    def work() -> dict[str, float]:
        return {
            f"{model} {metric.name}": float(metric.formula(*(part.sum() for part in metric.parts)))
            for model, metrics in measured(test).metrics.items()
            if model in rankings
            for metric in metrics
        }

    return work, lambda values: values


def _models(folder: Path) -> list[tuple[int, str]]:
    return [(int(place), str(place)) for place in np.unique(arrays(folder, "lists")["model"])]


def metrics_ranx(folder: Path) -> Side:
    """From data frames of lists and of test ratings, with the texts that the package wants as ids, to metrics."""
    import pandas as pd
    from ranx import Qrels, Run, evaluate

    relevant, lists = arrays(folder, "relevant"), arrays(folder, "lists")

    def frame(rows: dict[str, np.ndarray], value: np.ndarray) -> pd.DataFrame:
        user, item = (pd.Series(rows[name].astype(str), dtype=object) for name in ("user", "item"))
        return pd.DataFrame({"q_id": user, "doc_id": item, "score": value})

    truth = frame(relevant, np.ones(len(relevant["user"]), np.int64))
    runs = {}
    for place, name in _models(folder):
        own = {column: values[lists["model"] == place] for column, values in lists.items()}
        runs[name] = frame(own, 1.0 / own["rank"])
    wanted = [f"{metric}@{TOP}" for metric in METRICS]

    def work() -> dict[str, float]:
        qrels = Qrels.from_df(truth)
        values = {}
        for name, run in runs.items():
            found = evaluate(qrels, Run.from_df(run), wanted, make_comparable=True)
            values |= {f"{name} {metric.replace('@', '_')}": float(value) for metric, value in found.items()}
        return values

    first = truth["q_id"].unique()[:20]
    small = [one[one["q_id"].isin(first)] for one in (truth, runs["0"])]
    evaluate(Qrels.from_df(small[0]), Run.from_df(small[1]), wanted, make_comparable=True)
    return work, lambda values: values


SIDES: dict[str, Callable[[Path], Side]] = {
    side.__name__: side
    for side in (
        segments_ours,
        segments_sklearn,
        als_ours,
        als_cmfrec,
        als_spark,
        implicit_als_ours,
        implicit_als_package,
        ease_ours,
        ease_rectools,
        lists_ours,
        lists_ours_without_reasons,
        lists_spark,
        lists_implicit,
        metrics_ours,
        metrics_ranx,
    )
}


def main() -> None:
    """Prepare a side, time its work and print what it tells."""
    name, folder = sys.argv[1:]
    work, told = SIDES[name](Path(folder))
    begun = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "facts": told(result)}), flush=True)


if __name__ == "__main__":
    # Beside the script lies no package; recsys_assets is there in the environment of the project alone.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
