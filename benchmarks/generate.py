"""Generates ratings of MovieLens latest's shape at any size, from a seed: the same size and seed give the same bytes.

MovieLens latest (2018-09) has 27,753,444 ratings by 283,228 users of 58,098 items. `docs/reference/benchmarks.md` says
what the data holds: tails, segments, factors, sittings. Nothing is generated twice: a finished folder is used again.
Usage: python benchmarks/generate.py [--ratings 27753444 | --scale 1] [--seed 0] [--format csv --format parquet]
[--to FOLDER]
"""

import argparse
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

FULL_RATINGS, FULL_USERS, FULL_ITEMS = 27_753_444, 283_228, 58_098
FORMATS = ("csv", "parquet", "zip")
# 9 January 1995 and 26 September 2018, the first and last day of MovieLens latest.
FIRST_SECOND, LAST_SECOND = 789_609_600, 1_537_920_000
N_SEGMENTS, RANK = 20, 8
# Shares of a user's ratings in its first and in its second segment; the others follow what is popular overall.
FIRST_SHARE, SECOND_SHARE = 0.45, 0.2
GENRES = [
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]

_DAY = 86_400
_BLOCK = 1_000_000
# Ratings per user are log-normal: a median of 30 and a mean of 98 give this deviation of the logarithm.
_MEDIAN_RATINGS, _SD_LOG_RATINGS = 30, 1.54
# An item at share x of the ranks is drawn exp(-_FALL * x ** _BEND) times as often as the first one. With 27 million
# ratings, that gives the first item 37,000 ratings, the median one 17, and leaves 3,551 items unrated.
_FALL, _BEND = 12.4, 0.38
_RATINGS_PER_SITTING = 50
_SECONDS_PER_RATING = 12
_DAYS_OF_STAY = 300
_MEAN_STARS = 3.2
_FIRST_WORDS = ["Silent", "Golden", "Broken", "Last", "Hidden", "Crimson", "Distant", "Wild"]
_SECOND_WORDS = ["River", "City", "Promise", "Garden", "Stranger", "Voyage", "Mirror", "Harbour"]


@dataclass(frozen=True)
class Size:
    """How much is generated. Users fall as the ratings do, items as their square root."""

    ratings: int
    users: int
    items: int

    @classmethod
    def of(cls, ratings: int) -> "Size":
        """The size with this many ratings.

        Raises:
            ValueError: there are too few ratings for a catalogue.
        """
        if ratings < 1_000:
            raise ValueError(f"{ratings} ratings are too few; 1000 is the least")
        scale = ratings / FULL_RATINGS
        return cls(ratings, max(round(FULL_USERS * scale), 10), max(round(FULL_ITEMS * scale**0.5), 200))


@dataclass(frozen=True)
class World:
    """What is planted. Items and users are numbered from 0 here; `item_ids` and number + 1 are in the files.

    Attributes:
        size: how much is generated.
        popularity: share of each item in what is rated, sums to 1, shape (items,).
        item_segment: of each item, shape (items,).
        item_ids: ascending with gaps, as in MovieLens, shape (items,).
        item_bias: in stars, shape (items,).
        item_factors: shape (items, RANK).
        user_segments: first and second segment of each user, shape (users, 2).
        user_ratings: ratings of each user, at least 1, shape (users,).
        user_bias: in stars, shape (users,).
        user_factors: shape (users, RANK).
    """

    size: Size
    popularity: np.ndarray
    item_segment: np.ndarray
    item_ids: np.ndarray
    item_bias: np.ndarray
    item_factors: np.ndarray
    user_segments: np.ndarray
    user_ratings: np.ndarray
    user_bias: np.ndarray
    user_factors: np.ndarray

    @classmethod
    def planted(cls, size: Size, seed: int) -> "World":
        """Draw the world of a seed."""
        random = np.random.default_rng([seed, 0])
        shares = random.dirichlet(np.full(N_SEGMENTS, 5.0))
        weight = np.exp(-_FALL * ((np.arange(size.items) + 0.5) / size.items) ** _BEND)
        popularity = random.permutation(weight / weight.sum())
        item_segment = random.choice(N_SEGMENTS, size.items, p=shares)
        # No segment stays empty, however few items there are.
        item_segment[:N_SEGMENTS] = np.arange(N_SEGMENTS)
        first = random.choice(N_SEGMENTS, size.users, p=shares)
        second = (first + random.integers(1, N_SEGMENTS, size.users)) % N_SEGMENTS
        centres = random.normal(0, 0.24, (N_SEGMENTS, RANK))
        known = np.log(popularity)
        # What is rated often is liked more, as in MovieLens.
        quality = 0.12 * (known - known.mean()) / known.std() + random.normal(0, 0.4, size.items)
        return cls(
            size=size,
            popularity=popularity,
            item_segment=item_segment,
            item_ids=np.sort(random.choice(size.items * 10 // 3, size.items, replace=False)) + 1,
            item_bias=quality.astype(np.float32),
            item_factors=(random.normal(0, 0.35, (size.items, RANK)) + centres[item_segment]).astype(np.float32),
            user_segments=np.stack([first, second], axis=1),
            user_ratings=_ratings_per_user(size, random),
            user_bias=random.normal(0, 0.43, size.users).astype(np.float32),
            user_factors=(random.normal(0, 0.35, (size.users, RANK)) + centres[first]).astype(np.float32),
        )


def _ratings_per_user(size: Size, random: np.random.Generator) -> np.ndarray:
    """Log-normal counts from 1 to a quarter of the items that add up to the ratings, shape (users,)."""
    drawn = np.exp(random.normal(np.log(_MEDIAN_RATINGS), _SD_LOG_RATINGS, size.users))
    most = size.items // 4

    def counts(factor: float) -> np.ndarray:
        return (drawn * factor).round().astype(np.int64).clip(1, most)

    low, high = 0.0, 1_000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if counts(middle).sum() <= size.ratings else (low, middle)
    found = counts(low)
    can_take = random.permutation(np.flatnonzero(found < most))
    found[can_take[: size.ratings - found.sum()]] += 1
    return found


class Choice:
    """Draws the items that users rate, every item once per user."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._members = [np.flatnonzero(world.item_segment == segment) for segment in range(N_SEGMENTS)]
        self._cumulated = [np.cumsum(world.popularity[members]) for members in self._members]
        self._totals = np.array([cumulated[-1] for cumulated in self._cumulated])
        # For a longer list most draws hit what is there already, so that weighing all items is faster.
        self._most_by_draws = min(1_000, world.size.items // 20)

    def of(self, users: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Users in ascending order and their items, the items of each user in the order of the draws."""
        is_long = self._world.user_ratings[users] > self._most_by_draws
        parts = [self._by_draws(users[~is_long], random)]
        for user in users[is_long]:
            chosen = self._by_weights(user, random)
            parts.append((np.full(len(chosen), user), chosen))
        user, item = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(user, kind="stable")
        return user[order], item[order]

    def _by_draws(self, users: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw with replacement, pass over what a user has, until everybody has enough."""
        n_items, wanted = self._world.size.items, self._world.user_ratings[users]
        codes, missing = np.empty(0, np.int64), wanted
        while (missing > 0).any():
            place = np.repeat(np.arange(len(users)), np.where(missing > 0, missing * 5 // 4 + 4, 0))
            drawn = place * n_items + self._draw(users[place], random)
            codes = pl.Series(np.concatenate([codes, drawn])).unique(maintain_order=True).to_numpy()
            missing = wanted - np.bincount(codes // n_items, minlength=len(users))
        codes = codes[np.argsort(codes // n_items, kind="stable")]
        place = codes // n_items
        is_kept = _nth(place, len(users)) < wanted[place]
        return users[place[is_kept]], codes[is_kept] % n_items

    def _draw(self, user: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """One item for each entry of `user`."""
        popular = random.choice(N_SEGMENTS, len(user), p=self._totals / self._totals.sum())
        which, own = random.random(len(user)), self._world.user_segments[user]
        is_second = which < FIRST_SHARE + SECOND_SHARE
        segment = np.where(which < FIRST_SHARE, own[:, 0], np.where(is_second, own[:, 1], popular))
        item, share = np.empty(len(user), np.int64), random.random(len(user))
        order = np.argsort(segment.astype(np.int8), kind="stable")
        ends = np.cumsum(np.bincount(segment, minlength=N_SEGMENTS))
        for number, entries in enumerate(np.split(order, ends[:-1])):
            found = np.searchsorted(self._cumulated[number], share[entries] * self._totals[number])
            item[entries] = self._members[number][found.clip(max=len(self._members[number]) - 1)]
        return item

    def _by_weights(self, user: int, random: np.random.Generator) -> np.ndarray:
        """The same by an exponential clock for each item: those that ring first are chosen, the first one first."""
        weight = self._world.popularity * (1 - FIRST_SHARE - SECOND_SHARE)
        for segment, share in zip(self._world.user_segments[user], (FIRST_SHARE, SECOND_SHARE), strict=True):
            members = self._members[segment]
            weight[members] += share * self._world.popularity[members] / self._totals[segment]
        n = int(self._world.user_ratings[user])
        rings = random.standard_exponential(len(weight)) / weight
        first = np.argpartition(rings, n)[:n]
        return first[np.argsort(rings[first])]


def _nth(group: np.ndarray, n_groups: int) -> np.ndarray:
    """The place of each entry within its group; entries are sorted by group."""
    counts = np.bincount(group, minlength=n_groups)
    return np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)


def stars(world: World, user: np.ndarray, item: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Ratings from 0.5 to 5: biases, factors and noise. Every other user gives whole stars only."""
    level = _MEAN_STARS + world.user_bias[user] + world.item_bias[item]
    level += np.einsum("ij,ij->i", world.user_factors[user], world.item_factors[item])
    level += random.normal(0, 0.75, len(user)).astype(np.float32)
    is_whole = user % 2 == 0
    rounded = np.where(is_whole, level.round(), (level * 2).round() / 2)
    return rounded.clip(np.where(is_whole, 1.0, 0.5), 5.0)


def times(world: World, user: np.ndarray, item: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Seconds since 1970. A user rates some 50 items in a sitting, seconds apart, segment after segment.

    Args:
        world: what is planted.
        user: ascending.
        item: of each user in the order of the draws; what is drawn first is rated in an earlier sitting.
        random: source of the draws.
    """
    users, place = np.unique(user, return_inverse=True)
    n_ratings = np.bincount(place)
    n_sittings = np.minimum(1 + random.poisson((n_ratings - 1) / _RATINGS_PER_SITTING), n_ratings)
    begins = np.cumsum(n_sittings) - n_sittings
    sitting = begins[place] + _nth(place, len(users)) * n_sittings[place] // n_ratings[place]
    arrival = random.uniform(FIRST_SECOND, LAST_SECOND - 2 * _DAY, len(users))
    stay = np.minimum(random.exponential(_DAYS_OF_STAY * _DAY, len(users)), LAST_SECOND - _DAY - arrival)
    of_user = np.repeat(np.arange(len(users)), n_sittings)
    begin = arrival[of_user] + stay[of_user] * random.random(len(of_user))
    begin = begin[np.lexsort((begin, of_user))]
    turn = (world.item_segment[item] + random.integers(0, N_SEGMENTS, len(of_user))[sitting]) % N_SEGMENTS
    order = np.lexsort((turn, sitting))
    passed = np.cumsum(random.exponential(_SECONDS_PER_RATING, len(user)))
    sizes = np.bincount(sitting, minlength=len(of_user))
    since_begin = passed - np.repeat(passed[np.cumsum(sizes) - sizes], sizes)
    found = np.empty(len(user), np.int64)
    found[order] = begin[sitting[order]] + since_begin
    return found.clip(max=LAST_SECOND)


def blocks(world: World, seed: int) -> Iterator[pl.DataFrame]:
    """Ratings in blocks of about a million, by user, then item, as in MovieLens: userId, movieId, rating, timestamp."""
    choice = Choice(world)
    number = np.cumsum(world.user_ratings) // _BLOCK
    for block in np.unique(number):
        random = np.random.default_rng([seed, 1, block])
        user, item = choice.of(np.flatnonzero(number == block), random)
        yield pl.DataFrame(
            {
                "userId": (user + 1).astype(np.int32),
                "movieId": world.item_ids[item].astype(np.int32),
                "rating": stars(world, user, item, random).astype(np.float64),
                "timestamp": times(world, user, item, random),
            }
        ).sort("userId", "movieId")


def catalogue(world: World, seed: int) -> pl.DataFrame:
    """All items, rated or not: movieId, title with a year before the first rating, genres. A segment has two genres."""
    random = np.random.default_rng([seed, 2])
    of_segment = [set(random.choice(len(GENRES), 2, replace=False)) for _ in range(N_SEGMENTS)]
    n = world.size.items
    first, second = random.integers(0, len(_FIRST_WORDS), n), random.integers(0, len(_SECOND_WORDS), n)
    year, extra = random.integers(1930, 1995, n), random.integers(0, len(GENRES), n)
    titles, genres = [], []
    for i in range(n):
        titles.append(f"{_FIRST_WORDS[first[i]]} {_SECOND_WORDS[second[i]]} {i + 1} ({year[i]})")
        # Every third item has a genre that says nothing about its segment.
        own = of_segment[world.item_segment[i]] | ({extra[i]} if i % 3 == 0 else set())
        genres.append("|".join(GENRES[genre] for genre in sorted(own)))
    return pl.DataFrame({"movieId": world.item_ids, "title": titles, "genres": genres})


def generate(folder: Path, size: Size, seed: int = 0, formats: Sequence[str] = ("csv", "parquet")) -> None:
    """Write each format to a folder of its name in `folder`: a batch that `recsys-assets add` takes.

    Args:
        folder: receives `csv/` (ratings.csv, movies.csv), `parquet/` (ratings.parquet, movies.parquet),
            `zip/generated.zip` (the two CSV files), and `generated.json` (size and seed). What is there is kept.
        size: how much to generate.
        seed: of everything that is drawn.
        formats: any of `FORMATS`.

    Raises:
        ValueError: the folder holds data of another size or seed.
    """
    told = json.dumps({**asdict(size), "seed": seed})
    finished = folder / "generated.json"
    if finished.exists() and finished.read_text() != told:
        raise ValueError(f"{folder} holds {finished.read_text()}, not {told}; name another folder")
    wanted = [name for name in formats if not (folder / name).exists()]
    if not wanted:
        return
    unfinished = folder / f".unfinished-{os.getpid()}"
    try:
        _write(unfinished, World.planted(size, seed), seed, wanted)
        finished.write_text(told)
        for name in wanted:
            (unfinished / name).rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: Path, world: World, seed: int, formats: Sequence[str]) -> None:
    for name in formats:
        (folder / name).mkdir(parents=True)
    items = catalogue(world, seed)
    if "parquet" in formats:
        items.write_parquet(folder / "parquet" / "movies.parquet")
    # If only the zip is wanted, its files go through a folder that is deleted.
    plain = folder / ("csv" if "csv" in formats else "plain")
    plain.mkdir(exist_ok=True)
    items.write_csv(plain / "movies.csv")
    with ExitStack() as files:
        csv = files.enter_context((plain / "ratings.csv").open("wb")) if {"csv", "zip"} & set(formats) else None
        parquet: pq.ParquetWriter | None = None
        for number, block in enumerate(blocks(world, seed)):
            if csv:
                block.write_csv(csv, include_header=number == 0)
            if "parquet" in formats:
                table = block.to_arrow()
                if parquet is None:
                    path = folder / "parquet" / "ratings.parquet"
                    parquet = files.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
                parquet.write_table(table)
    if "zip" in formats:
        _pack(plain, folder / "zip" / "generated.zip")


def _pack(plain: Path, archive: Path) -> None:
    """Zip the CSV files, always with the same date, so that the bytes are the same."""
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("ratings.csv", "movies.csv"):
            member = zipfile.ZipInfo(f"generated/{name}", date_time=(2018, 9, 26, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with (plain / name).open("rb") as source, packed.open(member, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


def cached(name: str) -> Path:
    """The folder of this name in the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "recsys_assets" / name


def cache(size: Size, seed: int) -> Path:
    """The folder for data of this size and seed in the user's cache."""
    return cached("generated") / f"{size.ratings}-seed-{seed}"


def main() -> None:
    """Generate, and say where the data is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--ratings", type=int, help=f"how many ratings (default: {FULL_RATINGS:,})")
    size.add_argument("--scale", type=float, help="the same as a share of MovieLens latest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", action="append", choices=FORMATS, help="may be repeated (default: csv, parquet)")
    parser.add_argument("--to", type=Path, help="folder for the data (default: one in the user's cache)")
    asked = parser.parse_args()
    wanted = Size.of(asked.ratings or round(FULL_RATINGS * (asked.scale or 1)))
    folder = asked.to or cache(wanted, asked.seed)
    generate(folder, wanted, asked.seed, asked.format or ("csv", "parquet"))
    print(f"{wanted.ratings:,} ratings, {wanted.users:,} users, {wanted.items:,} items: {folder}")


if __name__ == "__main__":
    main()
