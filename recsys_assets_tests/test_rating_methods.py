from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import (
    attribute_effects,
    bayesian_factors,
    biases,
    cluster_mean,
    item_mean,
    item_neighbours,
    side_information,
    stack,
)
from recsys_assets.recommender.models.attribute_effects import AttributeEffects
from recsys_assets.recommender.models.bayesian_factors import BayesianFactors
from recsys_assets.recommender.models.biases import BiasModel
from recsys_assets.recommender.models.cluster_mean import ClusterMeanModel
from recsys_assets.recommender.models.stack import Bases, Holdout, StackModel
from recsys_assets.recommender.models.variational import Prior, posterior

N_USERS, N_ITEMS = 120, 60
COLD = np.arange(100, N_USERS)
UNRATED = np.arange(54, N_ITEMS)
INDEX = Index(n_users=N_USERS, n_items=N_ITEMS, fingerprint="planted")
TASTE = np.arange(N_USERS) % 2
GENRE = np.arange(N_ITEMS) % 2
USER_BIAS = np.linspace(-0.6, 0.6, N_USERS)
ITEM_BIAS = np.cos(np.arange(N_ITEMS))
# What a rating is but for noise: a level of user and item, and 0.8 more or less as the item's genre suits the user.
TRUTH = 3.0 + USER_BIAS[:, None] + 0.4 * ITEM_BIAS + 0.8 * np.where(TASTE[:, None] == GENRE, 1, -1)
USER_FEATURES = pl.DataFrame({"user": range(N_USERS), "old": TASTE * 2.0 - 1, "noise": USER_BIAS % 0.1}).with_columns(
    pl.col("user").cast(pl.Int32)
)
ITEMS = pl.DataFrame(
    {
        "item": pl.Series(range(N_ITEMS), dtype=pl.Int32),
        "year": [None if item == 3 else 1950 + item for item in range(N_ITEMS)],
        "genres": [["Action", "Romance"][genre : genre + 1] for genre in GENRE],
    }
)
CLUSTERS = pl.DataFrame({"user": pl.Series(range(N_USERS), dtype=pl.Int32), "cluster": TASTE.astype(np.int32)})


def pairs(users: np.ndarray, items: np.ndarray) -> pl.DataFrame:
    """Every user with every item."""
    rows = pl.DataFrame({"user": users}).join(pl.DataFrame({"item": items}), how="cross")
    return rows.cast(pl.Int32)


def planted(seed: int = 0) -> pl.DataFrame:
    """Four tenths of the ratings of the known users and items; the last fifth of the users come late."""
    generator = np.random.default_rng(seed)
    user, item = np.nonzero(generator.random((COLD[0], UNRATED[0])) < 0.4)
    n = len(user)
    rating = TRUTH[user, item] + generator.normal(0, 0.3, n)
    late = user >= COLD[0] * 4 // 5
    when = pl.Series((generator.permutation(n) + n * late) * 1_000_000).cast(pl.Datetime("us", "UTC"))
    rows = {"user": user, "item": item, "rating": rating, "timestamp": when, "batch": [0] * n, "row": range(n)}
    return pl.DataFrame(rows).cast({"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32})


def factors(ratings: pl.DataFrame, **settings: int) -> BayesianFactors:
    """The factorisation of these ratings with all attributes."""
    given = {"index": INDEX, "user_features": lazy(USER_FEATURES), "items": lazy(ITEMS)}
    return bayesian_factors.fit(
        lazy(ratings),
        **given,
        settings=bayesian_factors.BayesianFactorsSettings(**{"rank": 2, "max_iter": 15, **settings}),
    )


def rmse(predictions: pl.DataFrame) -> float:
    """Beside the truth without noise."""
    user, item = predictions["user"].to_numpy(), predictions["item"].to_numpy()
    return float(np.sqrt(np.mean((predictions["prediction"].to_numpy() - TRUTH[user, item]) ** 2)))


@pytest.fixture(scope="module")
def ratings() -> pl.DataFrame:
    """What most models here are fitted on."""
    return planted()


def fitted_bases(ratings: pl.DataFrame) -> Bases:
    """The stacked models, fitted on these ratings."""
    attributes = factors(ratings)
    return Bases(
        attributes,
        factors(ratings, n_profile=4, seed=1),
        attribute_effects.fit(
            lazy(ratings),
            index=INDEX,
            user_features=lazy(USER_FEATURES),
            bayesian_factors_model=attributes,
            settings=attribute_effects.AttributeEffectsSettings(reg=10.0),
        ),
        cluster_mean.fit(
            lazy(ratings),
            index=INDEX,
            user_clusters=lazy(CLUSTERS),
            settings=cluster_mean.ClusterMeanSettings(shrinkage=2.0),
        ),
        item_neighbours.fit(
            lazy(ratings), index=INDEX, settings=item_neighbours.ItemNeighboursSettings(pair_shrinkage=5.0)
        ),
    )


def held_out(ratings: pl.DataFrame, bases: Bases, **settings: int) -> Holdout:
    """Hidden ratings, with predictions of the models fitted on the rest."""
    return stack.hold_out(
        lazy(ratings),
        index=INDEX,
        user_features=lazy(USER_FEATURES),
        items=lazy(ITEMS),
        user_clusters=lazy(CLUSTERS),
        bayesian_factors_model=bases.attributes,
        profile_factors_model=bases.profile,
        attribute_effects_model=bases.effects,
        cluster_mean_model=bases.clusters,
        rating_neighbours_model=bases.neighbours,
        settings=stack.StackHoldoutSettings(**settings),
    )


@pytest.fixture(scope="module")
def fitted(ratings) -> dict[str, object]:
    """A model of each kind but ALS."""
    bases = fitted_bases(ratings)
    holdout = held_out(ratings, bases)
    return {
        "bias": biases.fit(lazy(ratings), index=INDEX, settings=biases.UserItemBiasSettings()),
        "clusters": bases.clusters,
        "attributes": bases.attributes,
        "profile": bases.profile,
        "effects": bases.effects,
        "bases": bases,
        "rated": lazy(ratings),
        "holdout": holdout,
        "stack": stack.fit(lazy(ratings), index=INDEX, stack_holdout=holdout, settings=stack.StackSettings()),
    }


def test_biases_are_found_and_cold_users_have_none(ratings):
    """A strict user's ratings would be predicted like a generous one's, or a new user's would not be predicted."""
    model = biases.fit(
        lazy(ratings), index=INDEX, settings=biases.UserItemBiasSettings(user_shrinkage=0.5, item_shrinkage=0.5)
    )
    assert np.corrcoef(model.user_bias[: COLD[0]], USER_BIAS[: COLD[0]])[0, 1] > 0.8
    assert not model.user_bias[COLD].any() and not model.item_bias[UNRATED].any()


def test_shrinkage_draws_biases_to_zero_and_cells_to_the_item_mean(ratings):
    """One rating of 5 would make a user, or a cluster's item, an outlier."""
    model = biases.fit(
        lazy(ratings), index=INDEX, settings=biases.UserItemBiasSettings(user_shrinkage=1e9, item_shrinkage=1e9)
    )
    assert abs(model.user_bias).max() < 1e-6 and abs(model.item_bias).max() < 1e-6
    means = item_mean.fit(lazy(ratings), index=INDEX, settings=item_mean.ItemMeanSettings()).means
    shrunk = cluster_mean.fit(
        lazy(ratings),
        index=INDEX,
        user_clusters=lazy(CLUSTERS),
        settings=cluster_mean.ClusterMeanSettings(shrinkage=1e9),
    )
    np.testing.assert_allclose(shrunk.means, np.tile(means, (2, 1)), atol=1e-4)
    raw = cluster_mean.fit(
        lazy(ratings),
        index=INDEX,
        user_clusters=lazy(CLUSTERS),
        settings=cluster_mean.ClusterMeanSettings(shrinkage=0.0),
    )
    cell = ratings.filter(pl.col("user") % 2 == 1, pl.col("item") == 5)["rating"].mean()
    assert raw.means[1, 5] == pytest.approx(cell, abs=1e-5)
    np.testing.assert_allclose(raw.means[:, UNRATED], means[UNRATED[0]], atol=1e-5)


@pytest.mark.parametrize("name", ["clusters", "attributes", "profile", "stack"])
def test_new_users_are_predicted_by_what_they_are(fitted, ratings, name):
    """Somebody without a rating would be shown what the average person likes, whatever is known of them."""
    cold = lazy(pairs(COLD, np.arange(UNRATED[0])))
    means = rmse(item_mean.fit(lazy(ratings), index=INDEX, settings=item_mean.ItemMeanSettings()).predict(cold))
    assert rmse(_predicted(fitted, name, cold)) < 0.75 * means


def test_compiled_posteriors_are_those_of_the_formula():
    """A slip in a compiled loop would make every prediction a little worse, and nobody would see it."""
    generator = np.random.default_rng(0)
    n, m, size = 700, 9, 4
    rated = sparse.random_array((n, m), density=0.4, format="csr", dtype=np.float32, rng=generator)
    others = generator.normal(size=(m, size))
    roots = generator.normal(size=(m, size, size)) / 3
    spread = (roots @ roots.transpose(0, 2, 1)).astype(np.float32)
    prior = Prior(np.zeros((1, size)), np.diag([2.0, 3.0, 4.0, 5.0]))
    expected, noise = generator.normal(size=(n, size)), generator.uniform(0.5, 2, n)
    means, covariances = posterior(rated, others, spread, expected, prior, noise)
    for row in (0, 499, 500, n - 1):
        precision, pull = prior.precision.copy(), prior.precision @ expected[row]
        for column, value in zip(rated[[row]].indices, rated[[row]].data, strict=True):
            design = np.array([1, *others[column, 1:]])
            uncertain = spread[column].astype(np.float64)
            with_bias = uncertain[0].copy()
            uncertain[0] = uncertain[:, 0] = with_bias[0] = 0
            precision += noise[row] * (np.outer(design, design) + uncertain)
            pull += noise[row] * (value * design - others[column, 0] * design - with_bias)
        np.testing.assert_allclose(covariances[row], np.linalg.inv(precision), atol=1e-4)
        np.testing.assert_allclose(means[row], np.linalg.solve(precision, pull), atol=1e-3)


@pytest.mark.parametrize("name", ["attributes", "profile", "stack"])
def test_known_users_are_predicted_by_bias_and_taste(fitted, name):
    """A person's own ratings would count less than what people like them give."""
    warm = lazy(pairs(np.arange(COLD[0]), np.arange(UNRATED[0])))
    assert rmse(_predicted(fitted, name, warm)) < 0.25 < rmse(fitted["bias"].predict(warm))


@pytest.mark.parametrize("name", ["attributes", "stack"])
def test_new_items_are_predicted_by_their_genres(fitted, ratings, name):
    """An item that nobody has rated would be predicted at the global mean for everybody."""
    new = lazy(pairs(np.arange(COLD[0]), UNRATED))
    assert rmse(_predicted(fitted, name, new)) < 0.6 * rmse(
        item_mean.fit(lazy(ratings), index=INDEX, settings=item_mean.ItemMeanSettings()).predict(new)
    )


def _predicted(fitted: dict[str, object], name: str, rows) -> pl.DataFrame:
    if name == "stack":
        return fitted["stack"].predict(rows, fitted["rated"], fitted["bases"])
    return fitted[name].predict(rows)


def test_without_attributes_and_years_there_is_still_a_model():
    """A catalogue without demographics, genres or years could not be fitted at all."""
    items = ITEMS.select("item", year=pl.lit(None, pl.Int32), genres=pl.lit(None, pl.List(pl.String)))
    model = bayesian_factors.fit(
        lazy(planted()),
        index=INDEX,
        user_features=lazy(USER_FEATURES.select("user")),
        items=lazy(items),
        settings=bayesian_factors.BayesianFactorsSettings(n_profile=2),
    )
    predicted = model.predict(lazy(pairs(np.arange(N_USERS), np.arange(N_ITEMS))))["prediction"]
    assert predicted.is_finite().all()


@pytest.mark.parametrize("constant", [True, False])
def test_ratings_on_any_scale_give_finite_predictions(ratings, constant):
    """A catalogue rated from 0 to 100, or where everybody gives the same rating, would be predicted as NaN."""
    changed = ratings.with_columns(rating=pl.lit(4.0) if constant else pl.col("rating") * 20)
    predicted = factors(changed).predict(lazy(pairs(np.arange(N_USERS), np.arange(N_ITEMS))))
    assert predicted["prediction"].is_finite().all()
    if constant:
        assert predicted["prediction"].to_numpy() == pytest.approx(4.0, abs=1e-3)
    else:
        warm = predicted.filter(pl.col("user") < COLD[0], pl.col("item") < UNRATED[0])
        assert rmse(warm.with_columns(pl.col("prediction") / 20)) < 0.3


@pytest.fixture(scope="module")
def in_other_units() -> Callable[[pl.DataFrame], dict[str, np.ndarray]]:
    """Fits every rating model and predicts all pairs."""

    def predicted(rated: pl.DataFrame) -> dict[str, np.ndarray]:
        bases = fitted_bases(rated)
        holdout = held_out(rated, bases)
        asked = lazy(pairs(np.arange(N_USERS), np.arange(N_ITEMS)))
        tables = {
            "attributes": bases.attributes.predict(asked),
            "profile": bases.profile.predict(asked),
            "clusters": bases.clusters.predict(asked),
            "neighbours": bases.neighbours.predict(asked, lazy(rated)),
            "bias": biases.fit(lazy(rated), index=INDEX, settings=biases.UserItemBiasSettings()).predict(asked),
            "item_mean": item_mean.fit(lazy(rated), index=INDEX, settings=item_mean.ItemMeanSettings()).predict(asked),
            "stack": stack.fit(lazy(rated), index=INDEX, stack_holdout=holdout, settings=stack.StackSettings()).predict(
                asked, lazy(rated), bases
            ),
        }
        return {name: table["prediction"].to_numpy() for name, table in tables.items()}

    return predicted


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_ratings_in_another_unit_give_predictions_in_that_unit(ratings, in_other_units, scale):
    """Whoever rates in cents would get worse predictions than who rates in euros."""
    rescaled = ratings.with_columns((pl.col("rating").cast(pl.Float64) * scale).cast(pl.Float32).alias("rating"))
    before = in_other_units(ratings)
    for name, predicted in in_other_units(rescaled).items():
        np.testing.assert_allclose(predicted / scale, before[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("n_ratings", [0, 1, 2])
def test_next_to_no_ratings_give_finite_predictions(ratings, in_other_units, n_ratings):
    """A home that has just begun would end in an error or in recommendations of NaN."""
    for name, predicted in in_other_units(ratings.head(n_ratings)).items():
        assert np.isfinite(predicted).all(), name


def test_a_million_ratings_of_one_item_are_summed_to_the_digit():
    """What everybody has rated would be predicted too low, the more the more people rated it."""
    n, level = 1_000_000, 0.123
    rated = sparse.csr_array((np.full(n, level, np.float32), np.arange(n), [0, n]), shape=(1, n))
    others, spread = np.zeros((n, 2)), np.zeros((n, 2, 2), np.float32)
    spread[:, 1, 1] = level
    prior = Prior(np.zeros((1, 2)), np.eye(2))
    means, covariances = posterior(rated, others, spread, np.zeros((1, 2)), prior, np.ones(1))
    assert means[0, 0] == pytest.approx(np.float64(np.float32(level)) * n / (n + 1), rel=1e-6)
    assert covariances[0, 1, 1] == pytest.approx(1 / (1 + np.float64(np.float32(level)) * n), rel=1e-6)


def test_row_order_does_not_matter(ratings):
    """Another engine, or the same ratings in another file, would give another model."""
    shuffled = ratings.sample(fraction=1, shuffle=True, seed=1)
    np.testing.assert_array_equal(factors(ratings).users, factors(shuffled).users)


def test_of_many_ratings_whole_users_are_held_out(ratings, fitted):
    """The stack would learn from histories that are cut short, or take as long as all its models together."""
    settings = stack.StackHoldoutSettings(fit_ratings=len(ratings) // 2)
    some = stack._sampled(ratings, settings)
    assert 0.3 * len(ratings) < len(some) < 0.7 * len(ratings)
    assert some.equals(ratings.filter(pl.col("user").is_in(some["user"].unique().to_list())))
    assert stack._sampled(ratings, stack.StackHoldoutSettings()).equals(ratings)
    hidden = held_out(ratings, fitted["bases"], fit_ratings=settings.fit_ratings)
    assert len(hidden.residuals) == len(some) - int(0.85 * len(some))


@pytest.mark.parametrize("folds", ["time", "random"])
def test_folds_hide_what_they_ask_for(ratings, folds):
    """The weights would trust models for knowing the very ratings that they are asked to predict."""
    known, hidden = stack._fold(ratings, stack.StackHoldoutSettings(folds=folds))
    assert 0.05 * len(ratings) < len(hidden) == len(ratings) - len(known)
    assert known.join(hidden, on=["user", "item"], how="semi").is_empty()
    assert (known["timestamp"].max() < hidden["timestamp"].min()) == (folds == "time")


def test_what_a_stack_starts_from_is_what_is_known_of_the_user(fitted, ratings):
    """New users would be predicted by a profile that they do not have, or others without their own ratings."""
    known, cold = np.arange(4), COLD[:4]
    rows = pl.concat([pairs(users, np.arange(4)) for users in (known, cold)])
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    attributes, profile, effects, _, neighbours = fitted["bases"]
    found = fitted["bases"].predictions(rows, lazy(ratings))
    np.testing.assert_array_equal(found.is_seen, user < COLD[0])
    new = attributes.of(user, item) + effects.of(user, item)
    both = (attributes.of(user, item) + profile.of(user, item)) / 2
    np.testing.assert_allclose(found.central, np.where(found.is_seen, both, new))
    similar = neighbours.parts(user, item, lazy(ratings))["neighbours"]
    assert similar[found.is_seen].any() and not similar[~found.is_seen].any()
    assert any(np.allclose(column, similar) for column in found.features.T)


def test_corrections_are_found_and_few_ratings_teach_little():
    """The stack would not learn what its models get wrong, or learn a rule from a handful of ratings."""
    generator = np.random.default_rng(0)
    features = np.column_stack([np.ones(5000), generator.normal(size=(5000, 2)) * [1, 1000]])
    left = 0.2 + 0.5 * features[:, 1] + generator.normal(0, 0.1, 5000)
    whole, half = (
        stack._corrections(features, left, stack.StackSettings(reg=10, level_share=share)) for share in (1.0, 0.5)
    )
    # A sixth of the level is that of ratings without a correction.
    np.testing.assert_allclose(whole, [0.2 * 5 / 6, 0.5, 0], atol=0.02)
    np.testing.assert_allclose(half, [0.1 * 5 / 6, 0.5, 0], atol=0.02)
    assert abs(stack._corrections(features[:5], left[:5] + 3, stack.StackSettings(reg=100, level_share=1))[0]) < 0.2
    assert not stack._corrections(features[:0], left[:0], stack.StackSettings()).any()


def test_effects_of_attributes_are_found_item_by_item(ratings):
    """New users would be shown what people like them dislike, where factors are too few to tell."""
    odd = 7
    liked = np.where(TASTE == 1, 1.5, -1.5)
    changed = ratings.with_columns(
        pl.when(pl.col("item") == odd)
        .then(pl.col("rating") + pl.Series(liked)[ratings["user"]])
        .otherwise("rating")
        .cast(pl.Float32)
    )
    coarse = factors(changed, rank=1)
    known = {"index": INDEX, "user_features": lazy(USER_FEATURES), "bayesian_factors_model": coarse}
    model, none = (
        attribute_effects.fit(lazy(changed), **known, settings=attribute_effects.AttributeEffectsSettings(reg=reg))
        for reg in (5.0, 1e12)
    )
    old, young = (model.of(COLD[TASTE[COLD] == taste][:1], np.array([odd]))[0] for taste in (1, 0))
    expected = [coarse.of_new(COLD[TASTE[COLD] == taste][:1], np.array([odd]))[0] for taste in (1, 0)]
    # The planted gap is 3 and that of the genre 1.6, less or more; together both models come near to it.
    assert old - young > 0
    whole = 1.6 * (1 if GENRE[odd] == 1 else -1) + 3
    assert abs(expected[0] + old - expected[1] - young - whole) < abs(expected[0] - expected[1] - whole)
    assert abs(none.coefficients).max() < 1e-6
    assert not model.coefficients[UNRATED].any()


def test_free_tags_as_genres_are_cut_to_those_that_items_share():
    """A catalogue with thousands of tags would make a column of each, in the factors and in the stack."""
    tags = [[f"common {n}", f"own {item}"] for n in range(60) for item in (2 * n, 2 * n + 1)]
    items = pl.DataFrame({"item": range(120), "year": [2000] * 120, "genres": [*tags[:-1], ["common 59", "common 7"]]})
    attributes = side_information.item_attributes(lazy(items))
    assert attributes.shape == (120, 50 + 2)
    assert sorted(set(attributes[:, :50].sum(axis=0))) == [2, 3]


def test_a_user_like_no_other_is_not_predicted_beyond_the_scale(fitted, ratings):
    """Somebody with an odd history would be predicted ratings of -5 and 11, and so ruin lists and scores."""
    everyone = lazy(pairs(np.arange(N_USERS), np.arange(N_ITEMS)))
    model = fitted["stack"]
    for level, end in ((-100.0, ratings["rating"].min()), (100.0, ratings["rating"].max())):
        far_off = {name: weights * 0 + np.eye(1, len(weights))[0] * level for name, weights in model.weights.items()}
        predicted = replace(model, weights=far_off).predict(everyone, lazy(ratings), fitted["bases"])
        assert set(predicted["prediction"]) == {end}
    one_alone = np.zeros((400, 60))
    one_alone[:, :30] = np.random.default_rng(0).random((400, 30)) < 0.5
    one_alone[0] = 0
    one_alone[0, 30:] = 1
    users, items = side_information.profiles(sparse.csr_array(one_alone.astype(np.float32)), 5)
    assert max(abs(users).max(), abs(items).max()) <= 8


def test_profiles_leave_out_what_attributes_tell():
    """What users have rated would take away from their attributes, on which those without ratings depend."""
    generator = np.random.default_rng(0)
    attributes = generator.normal(size=(200, 2))
    values = attributes @ [[1.0], [2.0]] + generator.normal(size=(200, 1))
    known = np.arange(200) < 150
    left = side_information.unexplained(values, attributes, known)
    assert not left[~known].any()
    assert (
        abs(np.corrcoef(left[known, 0], attributes[known, 1])[0, 1])
        < 0.3
        < np.corrcoef(values[known, 0], attributes[known, 1])[0, 1]
    )


TYPES = {
    "bias": BiasModel,
    "clusters": ClusterMeanModel,
    "attributes": BayesianFactors,
}


@pytest.mark.parametrize("name", TYPES)
def test_stored_models_predict_as_before(fitted, tmp_path, name):
    """Scores would change by storing a model."""
    rows = lazy(pairs(np.arange(N_USERS), np.arange(N_ITEMS)))
    fitted[name].save(tmp_path)
    loaded = TYPES[name].load(tmp_path)
    assert loaded.index == INDEX.fingerprint
    assert loaded.predict(rows).equals(fitted[name].predict(rows))


def test_stored_stacks_and_priors_are_as_before(fitted, tmp_path):
    """A stored stack would weigh its models differently, or a stored prior predict new users differently."""
    for name in ("stack", "attributes", "effects", "holdout"):
        (tmp_path / name).mkdir()
        fitted[name].save(tmp_path / name)
    rows = lazy(pairs(np.arange(N_USERS), np.arange(N_ITEMS)))
    loaded = fitted | {"stack": StackModel.load(tmp_path / "stack")}
    assert _predicted(loaded, "stack", rows).equals(_predicted(fitted, "stack", rows))
    model = BayesianFactors.load(tmp_path / "attributes")
    np.testing.assert_array_equal(*(each.of_new(COLD, COLD % 50) for each in (model, fitted["attributes"])))
    effects = AttributeEffects.load(tmp_path / "effects")
    np.testing.assert_array_equal(effects.of(COLD, COLD % 50), fitted["effects"].of(COLD, COLD % 50))
    holdout = Holdout.load(tmp_path / "holdout")
    again = stack.fit(lazy(planted()), index=INDEX, stack_holdout=holdout, settings=stack.StackSettings())
    np.testing.assert_array_equal(again.weights["seen"], fitted["stack"].weights["seen"])
