import numpy as np
import polars as pl
import pytest

from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.features import clusters


@pytest.fixture
def people() -> pl.DataFrame:
    """Three groups of users told apart by age, gender and region; one user without attributes."""
    generator = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [40, 30, 20])
    table = pl.DataFrame(
        {
            "user": np.arange(90, dtype=np.int32),
            "user_id": [f"id{n}" for n in range(90)],
            "age": np.array([15.0, 40.0, 70.0])[group] + generator.normal(0, 0.5, 90),
            "gender": np.array(["F", "M", "F"])[group],
            "zip_code": np.array(["10001", "20002", "30003"])[group],
            "planet": ["earth"] * 90,
        }
    )
    nobody = pl.DataFrame({"user": [90], "user_id": ["id90"]}, schema_overrides={"user": pl.Int32})
    return pl.concat([table, nobody], how="diagonal")


def test_features_are_scaled_and_encoded(people):
    """A zip code or an id would be taken for a quantity and drown everything else."""
    features = clusters.user_features(lazy(people))
    assert features.columns == ["user", "age", "gender=F", "gender=M", "zip_code=1", "zip_code=2", "zip_code=3"]
    known = features.head(90)
    assert known["age"].mean() == pytest.approx(0, abs=1e-9)
    assert known["age"].std(ddof=0) == pytest.approx(1)
    assert known.select("gender=F", "gender=M").sum_horizontal().to_list() == [1.0] * 90
    assert features.row(90)[1:] == (0.0,) * 6


def test_what_hardly_anybody_shares_is_left_out():
    """An e-mail or a postcode among the attributes would make a column per user, and a refresh take hours."""
    town = ["village"] * 5 + [f"town {n // 2:02}" for n in range(160)] + ["farm", None]
    people = pl.DataFrame(
        {
            "user": np.arange(len(town), dtype=np.int32),
            "user_id": [f"id{n}" for n in range(len(town))],
            "email": [f"id{n}@example.org" for n in range(len(town))],
            "town": town,
        }
    )
    told: list[str] = []
    features = clusters.user_features(lazy(people), log=told.append)
    assert features.columns[1:] == [*(f"town=town {n:02}" for n in range(49)), "town=village"]
    assert told == [
        "email: 0 of 167 values are used, the most frequent that users share",
        "town: 50 of 82 values are used, the most frequent that users share",
    ]


def test_planted_groups_are_found(people):
    """Users of a kind would not be in one cluster, and the fill for new users would be noise."""
    features = lazy(clusters.user_features(lazy(people.head(90))))
    sweep = clusters.sweep(features, settings=clusters.ClusterSettings(k_max=6))
    assert clusters.silhouette_choice(sweep) == 3
    assert sweep["sse"].is_sorted(descending=True)
    assert sweep["silhouette"][0] is None
    assigned = clusters.assign(features, settings=clusters.ClusterSettings(k=3))["cluster"].to_list()
    assert assigned == [0] * 40 + [1] * 30 + [2] * 20


def test_an_attribute_of_many_values_tells_clusters_apart():
    """Users would be grouped by gender alone, whatever else is known of them, because it has two values only."""
    generator = np.random.default_rng(0)
    people = pl.DataFrame(
        {
            "user": np.arange(2_000, dtype=np.int32),
            "user_id": [f"id{n}" for n in range(2_000)],
            "gender": generator.choice(["F", "M"], 2_000),
            "age": generator.normal(40, 15, 2_000),
            "job": generator.choice([f"job {n}" for n in range(20)], 2_000),
        }
    )
    features = clusters.user_features(lazy(people))
    jobs = features.select(pl.col("^job=.*$")).to_numpy()

    def explained(weigh: str) -> float:
        settings = clusters.ClusterSettings(k=5, weigh=weigh)
        labels = clusters.assign(lazy(features), settings=settings)["cluster"].to_numpy()
        within = sum(((jobs[labels == k] - jobs[labels == k].mean(axis=0)) ** 2).sum() for k in range(5))
        return 1 - within / ((jobs - jobs.mean(axis=0)) ** 2).sum()

    assert explained("columns") < 0.02
    assert explained("auto") > 0.1


def test_movielens_1m_is_clustered_as_in_case_study_a():
    """The scores that are held against case study A would be of other clusters than it had."""
    generator = np.random.default_rng(0)
    drawn = {"age": generator.normal(size=6_040), "job=a": generator.random(6_040) < 0.2, "job=b": 0.0}
    features = pl.DataFrame({"user": np.arange(6_040, dtype=np.int32), **drawn}).cast({"job=a": pl.Float64})
    alike, as_then, by_default = (
        clusters.assign(lazy(features), settings=clusters.ClusterSettings(k=3, weigh=weigh))
        for weigh in ("attributes", "columns", "auto")
    )
    assert by_default.equals(as_then)
    assert not by_default.equals(alike)


def test_clusters_do_not_depend_on_the_order_of_rows(people):
    """The same users in another order would be grouped and numbered differently."""
    features = clusters.user_features(lazy(people))
    shuffled = features.sample(fraction=1, shuffle=True, seed=3)
    assert clusters.assign(lazy(shuffled), settings=clusters.ClusterSettings(k=4)).equals(
        clusters.assign(lazy(features), settings=clusters.ClusterSettings(k=4))
    )


def test_without_attributes_there_is_one_cluster():
    """A catalogue without demographics could not be used at all."""
    bare = lazy(pl.DataFrame({"user": [0, 1, 2], "user_id": ["a", "b", "c"]}))
    features = lazy(clusters.user_features(bare))
    assert clusters.assign(features, settings=clusters.ClusterSettings(k=5))["cluster"].to_list() == [0, 0, 0]
    sweep = clusters.sweep(features, settings=clusters.ClusterSettings(k_max=4))
    assert sweep["k"].to_list() == [1]
    assert clusters.silhouette_choice(sweep) is None


def test_more_clusters_than_kinds_of_users(people):
    """A small catalogue would fail in K-means."""
    two = lazy(
        clusters.user_features(lazy(people.filter(pl.col("gender").is_in(["F"])).select("user", "user_id", "zip_code")))
    )
    assert set(clusters.assign(two, settings=clusters.ClusterSettings(k=5))["cluster"]) == {0, 1}
