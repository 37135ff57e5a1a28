"""Settings that follow the data: what `auto` and its multiples come to."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_assets.recommender.data.automatic import ANCHOR_MEDIAN, ANCHOR_RATINGS, ANCHOR_USERS, multiple, resolved
from recsys_assets.recommender.data.frames import lazy
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import blend, demographic_popularity, ease
from recsys_assets.recommender.models.demographic_popularity import DemographicPopularitySettings
from recsys_assets.recommender.models.segments import model as segments

_SIZES = st.integers(1, 10**8)


@pytest.mark.parametrize(("setting", "number"), [("auto", 40.0), ("auto * 0.5", 20.0), ("3e3", 3000.0), (7, 7.0)])
def test_a_setting_is_the_rule_a_multiple_of_it_or_a_number(setting, number):
    """A number in somebody's settings would no longer be what is trained with."""
    assert resolved(setting, 40.0) == number
    assert resolved(multiple(0.5), 40.0) == 20.0 and multiple(1) == "auto"


@pytest.mark.parametrize("setting", ["", "auto *", "auto * x", "auto + 1", "nan", "inf", "2 * auto"])
def test_what_is_no_setting_is_refused(setting):
    """A typing error would become some regularisation."""
    with pytest.raises(ValueError, match="neither a number nor 'auto'"):
        resolved(setting, 1.0)


def test_the_rules_give_the_numbers_of_case_study_a_there():
    """MovieLens 1M would get other lists than those that were studied."""
    assert ease.automatic_reg(ANCHOR_USERS, ANCHOR_RATINGS) == 3000
    assert demographic_popularity.automatic_reg(ANCHOR_USERS, ANCHOR_RATINGS) == 300
    assert blend.automatic_prior(ANCHOR_MEDIAN) == 60
    assert segments.automatic_batch_size(4_228) == 256


@given(_SIZES, _SIZES)
def test_the_rules_follow_the_data(one, other):
    """Small data would be smothered by what large data need, or large data learn chance."""
    small, large = sorted((one, other))
    assert 0 < ease.automatic_reg(small, small) <= ease.automatic_reg(large, small) <= ease.automatic_reg(large, large)
    assert 0 < blend.automatic_prior(small) <= blend.automatic_prior(large)
    assert 0 < demographic_popularity.automatic_reg(small, 1000) <= demographic_popularity.automatic_reg(large, 1000)
    assert demographic_popularity.automatic_reg(1000, large) <= demographic_popularity.automatic_reg(1000, small)
    assert 256 <= segments.automatic_batch_size(small) <= segments.automatic_batch_size(large) <= 4_096


def test_the_prior_weighs_by_the_length_of_histories():
    """Users with five likes would all be shown the same list: the prior of users with a hundred swamps their taste."""
    rows = pl.DataFrame({"user": np.repeat(np.arange(3, dtype=np.int32), (2, 5, 40))})
    index = Index(n_users=3, n_items=1, fingerprint="")
    assert blend.fit(lazy(rows), index=index, settings=blend.BlendSettings()).prior_ratings == blend.automatic_prior(5)
    assert blend.fit(
        lazy(rows), index=index, settings=blend.BlendSettings(prior_ratings="auto * 0.1")
    ).prior_ratings == pytest.approx(blend.automatic_prior(5) / 10)
    assert blend.fit(lazy(rows), index=index, settings=blend.BlendSettings(prior_ratings=60.0)).prior_ratings == 60


def test_users_of_one_time_weigh_alike():
    """Without times, new users would be shown what the last rows of the file like."""
    rated = pl.DataFrame({"user": [0, 1, 2, 3], "item": [0, 1, 1, 0], "rating": 1.0, "timestamp": 5})
    alike = lazy(pl.DataFrame({"user": np.arange(4, dtype=np.int32)}))
    index = Index(n_users=4, n_items=2, fingerprint="")
    scores = demographic_popularity.fit(
        lazy(rated),
        index=index,
        user_features=alike,
        settings=DemographicPopularitySettings(half_life=0.01),
    ).scores(np.zeros((1, 0)))
    assert scores[0, 0] == pytest.approx(scores[0, 1])
