"""The users of clusters and segments by their own attributes, beside all users.

What is drawn of it belongs to `cluster_charts` and `segment_charts`.
"""

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.features.clusters import ZIP_CODE

# Rarer categories say little and differ by chance.
_RARE = 0.005
# Chance alone takes a mean this many standard errors away once in 370 times.
_STANDARD_ERRORS = 3.0
# Of fewer users a standard error says nothing: one user alone is 100 % of whatever it is.
_ENOUGH_USERS = 10
_COMPARED = {
    "row": pl.String,
    "text": pl.String,
    "everybody": pl.String,
    "deviation": pl.Float64,
    "users": pl.Int64,
    "is_share": pl.Boolean,
}


def attributes_by_group(
    users: nw.LazyFrame, groups: nw.LazyFrame, group: str, *, categories: int | None = None
) -> pl.DataFrame:
    """Each group's mean of every number and share of every category, beside those of all users that have a group.

    Shares are among the users whose value is known; zip codes count by their first digit.

    Args:
        users: the table `users`, with the attributes as they came.
        groups: user and the column `group`.
        group: the name of that column.
        categories: only this many categories of an attribute, the most common ones; by default all but rare ones.

    Returns:
        The group, row (what is measured), text (its value in the group), everybody (its value among all), deviation
        (difference from all, in standard deviations), users (of the group whose value is known), is_share (of a
        category; else a mean). No rows where users have no attributes.
    """
    joined = users.drop("user_id").join(groups.select("user", group), on="user")
    schema = joined.collect_schema()
    parts = [
        _means(joined, name, group)
        if schema[name].is_numeric() and name != ZIP_CODE
        else _shares(joined, name, group, categories)
        for name in schema.names()
        if name not in ("user", group)
    ]
    columns = pl.Schema({group: pl.Int32, **_COMPARED})
    return pl.concat([pl.DataFrame(schema=columns), *[part.select(*columns).cast(columns) for part in parts]])


def _means(joined: nw.LazyFrame, name: str, group: str) -> pl.DataFrame:
    value = nw.col(name).cast(nw.Float64())
    known = joined.filter(~nw.col(name).is_null())
    summed = known.group_by(group).agg(
        nw.len().alias("users"), value.sum().alias("total"), (value * value).sum().alias("squares")
    )
    mean = pl.col("total").sum() / pl.col("users").sum()
    spread = (pl.col("squares").sum() / pl.col("users").sum() - mean**2).clip(lower_bound=0).sqrt()
    own = pl.col("total") / pl.col("users")
    return (
        to_polars(summed)
        .sort(group)
        .select(
            group,
            "users",
            row=pl.lit(f"mean {name}"),
            text=own.round(1).cast(pl.String),
            everybody=mean.round(1).cast(pl.String),
            deviation=pl.when(spread > 0).then((own - mean) / spread).otherwise(0.0),
            is_share=pl.lit(False),
        )
    )


def _shares(joined: nw.LazyFrame, name: str, group: str, categories: int | None) -> pl.DataFrame:
    text = nw.col(name).cast(nw.String())
    category = text.str.slice(0, 1) if name == ZIP_CODE else text
    counted = joined.filter(~nw.col(name).is_null()).select(group, category.alias("value"))
    counts = to_polars(counted.group_by(group, "value").agg(nw.len().alias("having")))
    common = counts.group_by("value").agg(overall=pl.col("having").sum() / counts["having"].sum())
    common = common.filter(pl.col("overall") >= _RARE).sort("overall", "value", descending=[True, False])
    per_group = counts.group_by(group).agg(users=pl.col("having").sum())
    shares = (
        per_group.join(common if categories is None else common.head(categories), how="cross")
        .join(counts, on=[group, "value"], how="left")
        .with_columns(share=pl.col("having").fill_null(0) / pl.col("users"))
        .sort("overall", "value", group, descending=[True, False, False])
    )
    spread = (pl.col("overall") * (1 - pl.col("overall"))).sqrt()
    return shares.select(
        group,
        "users",
        row=pl.format("{}: {}", pl.lit(name), "value"),
        text=_percent("share"),
        everybody=_percent("overall"),
        deviation=pl.when(spread > 0).then((pl.col("share") - pl.col("overall")) / spread).otherwise(0.0),
        is_share=pl.lit(True),
    )


def _percent(column: str) -> pl.Expr:
    return pl.format("{} %", (100 * pl.col(column)).round(0).cast(pl.Int32))


def over_represented(users: nw.LazyFrame, user_segments: nw.LazyFrame, most: int) -> pl.DataFrame:
    """What sets each segment's users apart: categories more frequent than among everybody, and numbers that differ.

    Only what differs by more than 3 standard errors of a mean of that many users, 10 or more: the rest may be chance.

    Args:
        users: the table `users`.
        user_segments: the table `user_segments`.
        most: rows per segment, those of the largest deviation.

    Returns:
        segment, row, text, everybody, as in `attributes_by_group`; no rows where users have no attributes.
    """
    compared = attributes_by_group(users, user_segments, "segment")
    apart = pl.when("is_share").then("deviation").otherwise(pl.col("deviation").abs())
    is_enough = pl.col("users") >= _ENOUGH_USERS
    is_beyond_chance = pl.col("apart") * pl.col("users").sqrt() > _STANDARD_ERRORS
    found = compared.with_columns(apart=apart).filter(is_enough & is_beyond_chance)
    # Engines add in another order; the last digits must not decide which row comes first.
    ranked = found.sort("segment", pl.col("apart").round(9), "row", descending=[False, True, False])
    return ranked.group_by("segment", maintain_order=True).head(most).select("segment", "row", "text", "everybody")
