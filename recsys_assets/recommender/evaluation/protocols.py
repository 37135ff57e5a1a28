"""Protocols by name: how each one splits the ratings for `ModelFitter`, and how it scores predictions on test rows.

The splits belong in `data.splitting`, the formulas in `metrics`, the choice of models in `tuning`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import narwhals as nw

from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import held, row_count, to_polars
from recsys_assets.recommender.data.kind import DataKind
from recsys_assets.recommender.data.preferences import is_events, relevant_from
from recsys_assets.recommender.data.scale import EVERYTHING, Scale
from recsys_assets.recommender.data.splitting import Cut
from recsys_assets.recommender.evaluation.latest_rating import measure_latest_rating
from recsys_assets.recommender.evaluation.lists import random_ranker, top_lists
from recsys_assets.recommender.evaluation.result import EvaluationResult
from recsys_assets.recommender.evaluation.score_table import RANDOM
from recsys_assets.recommender.evaluation.time_cut import measure_ratings
from recsys_assets.recommender.evaluation.top_n import measure_top_n
from recsys_assets.recommender.registry.kinds import has_task

if TYPE_CHECKING:
    from recsys_assets.recommender.ranking.rankings import Ranker
    from recsys_assets.recommender.registry import Entry, Task

Tables = Mapping[str, nw.LazyFrame]

# The protocols that every run of the pipeline scores, if the ratings have times.
OF_THE_PIPELINE = ("time_cut", "top_n", "latest_rating")
# Protocols that need an order of the ratings. Without times, the cuts of the pipeline are drawn at random: cuts at
# other shares would say the same again.
_IN_ORDER = re.compile(r"time_cut_.*|.*leave_last_out|latest_rating.*")
REVEALED = (0, 1, 2, 5, 10, 20)
NEW_USERS = tuple(f"new_users_{n}" for n in REVEALED)
# All ratings of the new users are test rows; none is revealed.
COLD_USERS = "cold_users"
FOLDS = ("u1", "u2", "u3", "u4", "u5")
# Leakage audits of rating, ranking and latest-rating models: the cut in time first, then the splits that leak.
LEAKAGE_AUDIT = ("time_cut", "random_80_20", "leave_last_out")
TOP_N_LEAKAGE_AUDIT = ("top_n", "top_n_random_80_20", "top_n_leave_last_out")
LATEST_RATING_LEAKAGE_AUDIT = ("latest_rating_time_cut", "latest_rating")
LEAKAGE_AUDITS = (LEAKAGE_AUDIT, TOP_N_LEAKAGE_AUDIT, LATEST_RATING_LEAKAGE_AUDIT)
_SHARED = ("users", "items", "user_features")
# Tables whose rows models are scored on.
_SCORED = ("test_ratings", "train_responses", "test_responses")
_FORMS = (
    "time_cut, time_cut_<share>, random_<train>_<test> (in percent), u1 to u5, new_users_<revealed>, cold_users, "
    "leave_last_out, top_n, top_n_<any of the others>, latest_rating, latest_rating_time_cut"
)


def exists_for(kind: DataKind, name: str) -> bool:
    """Whether a protocol can score this kind of data."""
    in_kind = [task for task in tasks(name) if has_task(kind, task)]
    return bool(in_kind) and (kind.times or not _IN_ORDER.fullmatch(name))


def kind_of(tables: Tables) -> DataKind:
    """The kind of the data of a split, as far as its tables tell: ratings or events."""
    rows = next(tables[name] for name in ("train_ratings", "train_histories") if name in tables)
    return DataKind(feedback="events" if is_events(rows) else "ratings")


def of_the_pipeline(kind: DataKind) -> tuple[str, ...]:
    """The protocols that every run scores for a kind of data."""
    return tuple(name for name in OF_THE_PIPELINE if exists_for(kind, name))


def tasks(name: str) -> "tuple[Task, ...]":
    """Tasks of the registry whose entries a protocol scores."""
    if _is_latest_rating(name):
        return ("latest_rating", "next_item")
    return ("top_n",) if _is_top_n(name) else ("time_cut",)


def _is_top_n(name: str) -> bool:
    return name.startswith("top_n")


def _is_latest_rating(name: str) -> bool:
    return name.startswith("latest_rating")


def split(
    name: str,
    tables: Tables,
    *,
    seed: int = 0,
    cut: Cut = "auto",
    train_share: float = 0.7,
    scale: Scale = EVERYTHING,
) -> dict[str, nw.LazyFrame]:
    """The input tables of `ModelFitter` under a protocol.

    Args:
        name: one of
            time_cut (at `cut`); time_cut_0.6 (at any share);
            random_90_10, random_80_20 (random rows, percent of train and test);
            u1 to u5 (published folds of MovieLens 100K);
            new_users_0 to new_users_20 (number of revealed ratings); cold_users (all ratings of the same new users);
            leave_last_out (each user's latest rating); top_n (rows of time_cut);
            top_n_leave_last_out (rows of any other protocol);
            latest_rating (case study B);
            latest_rating_time_cut (each user's first rating after `cut`, from all ratings before `cut`).
        tables: users, items, user_features, ratings; for u1 to u5 also published_folds.
        seed: random seed of random rows, of new users and of the partition of case study B.
        cut: the cut of time_cut, top_n and latest_rating_time_cut.
        train_share: share of train users in latest_rating.
        scale: the samples; models are scored on the rows of the sampled users.

    Returns:
        users, items, user_features, train_ratings and test_ratings. latest_rating and latest_rating_time_cut return
        user_partition, train_histories, train_responses, test_histories and test_responses instead of the ratings.

    Raises:
        ValueError: the protocol is unknown, or one side has no rows.
        KeyError: the data have no published folds.
    """
    ratings = tables["ratings"]
    shared = {table: tables[table] for table in _SHARED if table in tables}
    if name == "latest_rating":
        partition = splitting.partition_users(tables["users"], train_share=train_share, seed=seed)
        made = _latest_rating(ratings, partition)
    elif name == "latest_rating_time_cut":
        made = _latest_rating_in_time(ratings, cut)
    else:
        made = {f"{side}_ratings": _side(name, tables, side, seed, cut) for side in ("train", "test")}
    return shared | _held(scored(made, scale, n_users=row_count(tables["users"])))


def scored(made: Tables, scale: Scale, *, n_users: int) -> dict[str, nw.LazyFrame]:
    """The tables of a split, with the rows of scored users only in the tables that models are scored on.

    Args:
        made: the tables by name.
        scale: the samples.
        n_users: number of all users.
    """
    return {name: scale.to_score(rows, n_users=n_users) if name in _SCORED else rows for name, rows in made.items()}


def _side(name: str, tables: Tables, side: splitting.Side, seed: int, cut: Cut) -> nw.LazyFrame:
    ratings = tables["ratings"]
    name = name.removeprefix("top_n_")
    if name in ("time_cut", "top_n"):
        return splitting.cut_in_time(ratings, side, cut=cut)
    if found := re.fullmatch(r"time_cut_(0\.\d+)", name):
        return splitting.cut_in_time(ratings, side, cut=float(found[1]))
    if (found := re.fullmatch(r"random_(\d\d)_(\d\d)", name)) and int(found[1]) + int(found[2]) == 100:
        return splitting.random_rows(ratings, side, test_share=int(found[2]) / 100, seed=seed)
    if found := re.fullmatch(r"new_users_(\d+)", name):
        return splitting.new_user_rows(ratings, side, n_revealed=int(found[1]), seed=seed)
    if name == COLD_USERS:
        return splitting.new_user_rows(ratings, side, n_revealed=0, n_skipped=0, seed=seed)
    if name == "leave_last_out":
        return splitting.leave_last_out(ratings, side)
    if name in FOLDS:
        return splitting.published_fold(ratings, tables["published_folds"], side, fold=name)
    raise ValueError(f"no protocol {name!r}; there are: {_FORMS}")


def _latest_rating(ratings: nw.LazyFrame, partition: nw.LazyFrame) -> dict[str, nw.LazyFrame]:
    sides: tuple[splitting.Side, ...] = ("train", "test")
    return (
        {"user_partition": partition}
        | {f"{side}_histories": splitting.histories(ratings, partition, side) for side in sides}
        | {f"{side}_responses": splitting.responses(ratings, partition, side) for side in sides}
    )


def _latest_rating_in_time(ratings: nw.LazyFrame, cut: Cut) -> dict[str, nw.LazyFrame]:
    """Responses are the first ratings of the test users after the cut; all training rows come before the cut."""
    before, after = (splitting.cut_in_time(ratings, side, cut=cut) for side in ("train", "test"))
    partition = splitting.partition_by_return(ratings, cut=cut)
    members = partition.filter(nw.col("partition") == "test").select("user")
    return _latest_rating(before, partition) | {
        "test_histories": before.join(members, on="user", how="semi"),
        "test_responses": splitting.first_responses(after, partition),
    }


def _held(frames: Tables) -> dict[str, nw.LazyFrame]:
    return {name: held(frame) for name, frame in frames.items()}


def lists(
    tables: Tables, entries: "Collection[Entry]", ranker: "Callable[[Entry], Ranker]", *, k: int = 10, seed: int = 0
) -> dict[str, nw.LazyFrame]:
    """The top k lists of each model, by name, for the users that `top_n` scores; `random` is a list drawn at random.

    Args:
        tables: output of `split("top_n", ...)`.
        entries: the models.
        ranker: loads the ranker of an entry. One ranker is in memory at a time, because rankers can be large.
        k: length of the lists.
        seed: random seed of the random lists.
    """
    train = tables["train_ratings"]
    relevant = tables["test_ratings"].filter(nw.col("rating") >= relevant_from(train))
    users = to_polars(relevant.select("user").unique())["user"].sort().to_numpy()
    shown = {entry.name: top_lists(ranker(entry), users, rated=train, k=k) for entry in entries}
    return shown | {RANDOM: top_lists(random_ranker(row_count(tables["items"]), seed=seed), users, rated=train, k=k)}


def measured(
    name: str,
    tables: Tables,
    predictions: "Mapping[Entry, nw.LazyFrame]",
    *,
    selected: "Mapping[Task, str]",
    lists: Tables | None = None,
    seed: int = 0,
) -> EvaluationResult:
    """Scores the predictions of models under a protocol.

    Args:
        name: a protocol, as in `split`.
        tables: output of `split`; without `users` there are no scores by gender and age.
        predictions: by entry of the protocol's tasks, predictions for the test rows.
        selected: by task, the model repeated as `selected`.
        lists: output of `lists`; None leaves the metrics of lists out.
        seed: random seed of ties.
    """
    of = {task: {entry.name: rows for entry, rows in predictions.items() if entry.task == task} for task in tasks(name)}
    users, items = tables.get("users"), tables["items"]
    if _is_latest_rating(name):
        return measure_latest_rating(
            {"train_users": tables["train_responses"], "test_users": tables["test_responses"]},
            of["latest_rating"],
            of["next_item"],
            histories={"train_users": tables["train_histories"], "test_users": tables["test_histories"]},
            selected=selected["latest_rating" if of["latest_rating"] else "next_item"],
            selected_ranking=selected.get("next_item"),
            n_items=row_count(items),
            users=users,
            protocol=name,
            seed=seed,
        )
    train, test = tables["train_ratings"], tables["test_ratings"]
    if _is_top_n(name):
        return measure_top_n(
            train,
            test,
            of["top_n"],
            n_items=row_count(items),
            selected=selected["top_n"],
            lists=lists,
            items=items,
            users=users,
            relevant_from=relevant_from(train),
            protocol=name,
            seed=seed,
        )
    ratings = of["time_cut"]
    return measure_ratings(train, test, ratings, selected=selected["time_cut"], users=users, protocol=name, seed=seed)
