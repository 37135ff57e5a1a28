"""Compares the attributes of the users of each cluster or segment with the attributes of all users.

Charts belong in `cluster_charts` and `segment_charts`.
"""

import narwhals as nw
import polars as pl

from recsys_assets.recommender.data.frames import to_polars
from recsys_assets.recommender.features.clusters import ZIP_CODE

# Rarer categories are left out: their shares differ by chance.
_RARE = 0.005
# By chance alone, one mean in 370 lies further from the mean of all users.
_STANDARD_ERRORS = 3.0
# With fewer users the standard error is meaningless: every share of a single user is 0 or 100 %.
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
    """The mean of every numeric attribute and the share of every category, per group and for all users with a group.

    Shares refer to the users whose value is known. Zip codes are grouped by their first digit.

    Args:
        users: the table `users`, with the original attributes.
        groups: columns user and `group`.
        group: name of the group column.
        categories: number of categories per attribute, the most common ones; by default all but rare ones.

    Returns:
        Columns: the group; row (name of the attribute or category); text (value in the group); everybody (value among
        all users); deviation (difference from all users, in standard deviations); users (number of users in the group
        with a known value); is_share (share of a category, otherwise a mean). No rows without attributes.
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
    """The traits of each segment: categories more frequent than among all users, and numbers that differ.

    A trait differs by more than 3 standard errors and rests on at least 10 users; other differences may be chance.

    Args:
        users: the table `users`.
        user_segments: the table `user_segments`.
        most: maximum number of rows per segment, largest deviation first.

    Returns:
        Columns segment, row, text, everybody, as in `attributes_by_group`; no rows without attributes.
    """
    compared = attributes_by_group(users, user_segments, "segment")
    apart = pl.when("is_share").then("deviation").otherwise(pl.col("deviation").abs())
    is_enough = pl.col("users") >= _ENOUGH_USERS
    is_beyond_chance = pl.col("apart") * pl.col("users").sqrt() > _STANDARD_ERRORS
    found = compared.with_columns(apart=apart).filter(is_enough & is_beyond_chance)
    # Engines sum in different orders; without rounding the last digits would decide the order of the rows.
    ranked = found.sort("segment", pl.col("apart").round(9), "row", descending=[False, True, False])
    return ranked.group_by("segment", maintain_order=True).head(most).select("segment", "row", "text", "everybody")
