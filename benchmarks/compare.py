"""Ratios of time against other packages for the same work, on the same data and with the same number of threads.

Each side runs in a process of its own, and sides alternate. Imports, the start of a JVM, reading the data and
compilation (a small run before) are not timed. A ratio is the time of recsys_assets divided by the time of the other
side, the median over pairs; single times say little on another machine. Where both sides do the same, their results
are compared, too. Other packages (`PACKAGES`) are installed into the user's cache by the first call,
which takes minutes; a comparison whose package cannot be installed is left out with the reason.
Usage: python benchmarks/compare.py [--quick] [--ratings 1000000 | --archive ml-1m.zip] [--only NAME …] [--pairs 3]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import compare_sides, generate, read_csv  # noqa: E402
from benchmarks.catalogue import indexed  # noqa: E402
from benchmarks.scale import machine  # noqa: E402
from recsys_assets.recommender.data.frames import lazy, pseudo_random, to_polars  # noqa: E402
from recsys_assets.recommender.data.preferences import Preference, relevant_from  # noqa: E402
from recsys_assets.recommender.features.matrices import user_item_matrix  # noqa: E402
from recsys_assets.recommender.models import ease  # noqa: E402
from recsys_assets.recommender.models.als import ALSModel, ImplicitALSSettings  # noqa: E402
from recsys_assets.recommender.models.ease import EASESettings  # noqa: E402
from recsys_assets.recommender.ranking.rankings import of_vectors, top_n  # noqa: E402

# Each gets an environment of its own, because RecTools brings another build of implicit. cmfrec imports threadpoolctl,
# which it does not name as a requirement.
PACKAGES = {
    "cmfrec": ("cmfrec==3.5.1.post14", "threadpoolctl==3.8.0"),
    "implicit": ("implicit==0.7.3",),
    "ranx": ("ranx==0.3.21",),
    "rectools": ("rectools==0.19.0",),
}
_RATINGS, _QUICK_RATINGS = 1_000_000, 20_000
_CSV_ROWS, _QUICK_CSV_ROWS = 27_000_000, 2_000_000
# From 50,000 users on, LDA makes one pass over them: that takes data of this size.
_SEGMENT_RATINGS = 6_000_000
# Where engines.py looks, too.
_ARCHIVE = ROOT.parent / "shared" / "data" / "ml-1m.zip"
_N_MODELS = 14
# Users whose lists by both EASE models are compared.
_COMPARED_USERS = 1_000
_MOST_SECONDS = 1_200


@dataclass(frozen=True)
class Timed:
    """What a side took, and figures of its result."""

    seconds: float
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Finding:
    """A comparison of results, and whether it is as it should be; None if nothing is required."""

    told: str
    is_met: bool | None = None


Check = Callable[[Path, Timed, Timed], Finding]


@dataclass(frozen=True)
class Comparison:
    """Work that both sides do.

    Attributes:
        name: for `--only`.
        work: what is done.
        against: by whom else.
        sides: names in `compare_sides`, ours first.
        package: of the other side, if it is none of the project's own; see `PACKAGES`.
        most: the highest ratio that is aimed at; None if the ratio is only reported.
        check: compares the results.
        needs_lists: whether the sides read what `prepare_lists` writes.
    """

    name: str
    work: str
    against: str
    sides: tuple[str, str]
    package: str | None = None
    most: float | None = None
    check: Check | None = None
    needs_lists: bool = False


@dataclass(frozen=True)
class Row:
    """A line of the table; without ratios, `reason` says why."""

    work: str
    against: str
    ratios: Sequence[float] = ()
    most: float | None = None
    finding: Finding | None = None
    reason: str = ""


def _same_rmse(_: Path, ours: Timed, other: Timed) -> Finding:
    here, there = ours.facts["rmse"], other.facts["rmse"]
    return Finding(f"RMSE on held-out ratings {here:.4f}, there {there:.4f}", abs(here - there) <= 0.002)


def _same_factors(folder: Path, *_: Timed) -> Finding:
    here, there = (np.load(folder / f"als_{side}.npz") for side in ("ours", "spark"))
    apart = max(float(np.abs(here[name] - there[name]).max()) for name in ("users", "items"))
    return Finding(f"factors differ by at most {apart:.0e}", apart < 1e-4)


def _perplexity(_: Path, ours: Timed, other: Timed) -> Finding:
    here, there = ours.facts["perplexity"], other.facts["perplexity"]
    return Finding(f"held-out perplexity {here:,.0f}, there {there:,.0f}", here <= there)


def _same_weights(folder: Path, *_: Timed) -> Finding:
    here, there = (np.load(folder / f"ease_{side}.npy") for side in ("ours", "rectools"))
    rows = compare_sides.arrays(folder, "preferences")
    known, column = np.unique(rows["item"], return_inverse=True)
    some = np.unique(rows["user"])[:_COMPARED_USERS]
    is_some = np.isin(rows["user"], some)
    own = np.zeros((len(some), len(known)), np.float32)
    own[np.searchsorted(some, rows["user"][is_some]), column[is_some]] = rows["rating"][is_some]
    lists = []
    for weights in (here, there):
        scores = own @ weights
        scores[own != 0] = -np.inf
        lists.append(np.argsort(-scores, axis=1, kind="stable")[:, : compare_sides.TOP])
    overlap = _overlap(*lists)
    apart = float(np.abs(here - there).max() / np.abs(there).max())
    return Finding(
        f"weights differ by {apart:.0e} of the largest; {overlap:.2%} of the items of lists are equal", overlap > 0.99
    )


def _same_lists(folder: Path, *_: Timed) -> Finding:
    # A user whom the model does not know gets what the cluster likes here, and any items there.
    is_known = np.load(folder / "user_factors.npy").any(axis=1)
    lists = [np.load(folder / f"lists_{side}.npy")[is_known] for side in ("ours", "implicit")]
    overlap = _overlap(*lists)
    return Finding(f"{overlap:.2%} of the items are equal for users with factors", overlap > 0.99)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean share of a list that is in the other one, too."""
    return float(np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(first, second, strict=True)]))


def _same_metrics(_: Path, ours: Timed, other: Timed) -> Finding:
    apart = max(abs(value - ours.facts[name]) for name, value in other.facts.items())
    return Finding(f"{len(other.facts)} metrics differ by at most {apart:.0e}", apart <= 1e-6)


COMPARISONS = (
    Comparison(
        "segments",
        "LDA: fit and affinities of all users, built-in settings",
        "scikit-learn with the settings of case study B",
        ("segments_ours", "segments_sklearn"),
        most=0.1,
        check=_perplexity,
    ),
    Comparison(
        "als",
        f"explicit ALS, rank {compare_sides.RANK}, {compare_sides.ITERATIONS} iterations",
        "cmfrec, exact, same objective",
        ("als_ours", "als_cmfrec"),
        package="cmfrec",
        most=1.5,
        check=_same_rmse,
    ),
    Comparison(
        "als_spark",
        f"explicit ALS, rank {compare_sides.RANK}, {compare_sides.ITERATIONS} iterations",
        "Spark's ALS in local mode, which the engine Spark uses",
        ("als_ours", "als_spark"),
        check=_same_factors,
    ),
    Comparison(
        "implicit_als",
        f"implicit ALS, rank {compare_sides.IMPLICIT_RANK}, {compare_sides.ITERATIONS} iterations",
        "implicit, its conjugate gradients",
        ("implicit_als_ours", "implicit_als_package"),
        package="implicit",
    ),
    Comparison(
        "ease",
        "EASE on the 6,000 most rated items",
        "RecTools",
        ("ease_ours", "ease_rectools"),
        package="rectools",
        most=1.0,
        check=_same_weights,
    ),
    Comparison(
        "lists_spark",
        "top 10 of all users with reasons, rated items left out",
        "Spark's `recommendForAllUsers`, which leaves nothing out and has no reasons",
        ("lists_ours", "lists_spark"),
        most=0.05,
        needs_lists=True,
    ),
    Comparison(
        "lists_implicit",
        "top 10 of all users, rated items left out, without reasons",
        "implicit's `recommend`",
        ("lists_ours_without_reasons", "lists_implicit"),
        package="implicit",
        most=1.0,
        check=_same_lists,
        needs_lists=True,
    ),
    Comparison(
        "lists_reasons",
        "top 10 of all users with reasons and titles, rated items left out",
        "implicit's `recommend`, without reasons",
        ("lists_ours", "lists_implicit"),
        package="implicit",
        most=1.0,
        needs_lists=True,
    ),
    Comparison(
        "metrics",
        f"six ranking metrics of {_N_MODELS} models",
        "ranx",
        ("metrics_ours", "metrics_ranx"),
        package="ranx",
        most=1.0,
        check=_same_metrics,
        needs_lists=True,
    ),
)
_CSV = "csv"
NAMES = (_CSV, *(one.name for one in COMPARISONS))


def prepare(folder: Path, source: Path) -> str:
    """Write what the sides read; the size in words.

    A tenth of the ratings are test ratings, and all work is done on the others, the training ratings. A tenth of the
    users is held out of the fit of segments.
    """
    tables = indexed(source, folder)
    for name in ("users", "items"):
        to_polars(tables[name]).sort(name[:-1]).write_parquet(folder / f"{name}.parquet")
    ratings = to_polars(tables["ratings"].select("user", "item", "rating"))
    is_test = pseudo_random(0, ["user", "item"]) % 10 == 0
    train, test = (to_polars(lazy(ratings).filter(chosen)) for chosen in (~is_test, is_test))
    is_held = pl.col("user") % 10 == 0
    liked = test.filter(pl.col("rating") >= relevant_from(lazy(ratings)))
    n_users, n_items = len(to_polars(tables["users"])), len(to_polars(tables["items"]))
    matrix = user_item_matrix(lazy(train), n_items=n_items)[1]
    counts = np.bincount(matrix.indices, minlength=n_items)
    most_rated = np.argsort(-counts, kind="stable")[: EASESettings().max_items]
    rows = {
        "train": train,
        "test": test,
        "relevant": liked,
        "held": train.filter(is_held),
        "fitted": train.filter(~is_held),
        "liked": _with(train, _preference(train, ImplicitALSSettings().neutral_offset).from_neutral).filter(
            pl.col("rating") > 0
        ),
        "preferences": _with(train.filter(pl.col("item").is_in(most_rated)), _preference(train, ease._NEUTRAL_OFFSET)),
    }
    for name, frame in rows.items():
        _store(folder, name, frame)
    facts = {"users": n_users, "items": n_items, "reg": ease.automatic_reg(matrix.shape[0], matrix.nnz)}
    (folder / "facts.json").write_text(json.dumps(facts))
    return f"{len(ratings):,} ratings, {n_users:,} users, {n_items:,} items"


def prepare_lists(folder: Path) -> None:
    """Write factors by implicit ALS and lists by `_N_MODELS` models: more and more of these factors."""
    if not (folder / "implicit_als").exists():
        _timed(folder, "implicit_als_ours", Path(sys.executable))
    model = ALSModel.load(folder / "implicit_als")
    for side in ("user", "item"):
        np.save(folder / f"{side}_factors.npy", getattr(model, f"{side}_factors"))
    train = lazy(pl.DataFrame(compare_sides.arrays(folder, "train")))
    users = np.unique(compare_sides.arrays(folder, "relevant")["user"])
    lists = [
        top_n(of_vectors(model.user_factors[:, :rank], model.item_factors[:, :rank]), train, users, n=compare_sides.TOP)
        .select("user", "item", "rank")
        .with_columns(model=pl.lit(place, pl.Int32))
        for place, rank in enumerate(range(2, 2 + 2 * _N_MODELS, 2))
    ]
    _store(folder, "lists", pl.concat(lists))


def _preference(ratings: pl.DataFrame, offset: float) -> Preference:
    return Preference.of(lazy(ratings), neutral_offset=offset)


def _with(ratings: pl.DataFrame, preference: Callable[[np.ndarray], np.ndarray]) -> pl.DataFrame:
    return ratings.with_columns(rating=pl.Series(preference(ratings["rating"].to_numpy())))


def _store(folder: Path, name: str, frame: pl.DataFrame) -> None:
    np.savez(folder / f"{name}.npz", **{column: frame[column].to_numpy() for column in frame.columns})


def compared(comparison: Comparison, folder: Path, pairs: int) -> Row:
    """Run both sides in turn, and compare the last results."""
    try:
        other = python_of(comparison.package) if comparison.package else Path(sys.executable)
        timed = [
            (_timed(folder, comparison.sides[0], Path(sys.executable)), _timed(folder, comparison.sides[1], other))
            for _ in range(pairs)
        ]
    except subprocess.SubprocessError as error:
        return Row(comparison.work, comparison.against, most=comparison.most, reason=_reason(error))
    for ours, others in timed:
        _tell(f"  {ours.seconds:.2f} s against {others.seconds:.2f} s")
    ratios = [ours.seconds / others.seconds for ours, others in timed]
    finding = comparison.check(folder, *timed[-1]) if comparison.check else None
    return Row(comparison.work, comparison.against, ratios, comparison.most, finding)


def compared_csv(rows: int, pairs: int) -> Row:
    """Reading a CSV: what `read_csv.py` measures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        read_csv.write_csv(path, rows)
        timed = [[read_csv.measured(reader, path) for reader in read_csv.READERS] for _ in range(pairs)]
    ratios = [ours[0] / pandas[0] for ours, pandas in timed]
    peaks = [max(pair[side][2] for pair in timed) for side in (0, 1)]
    finding = Finding(f"peak {peaks[0]:.1f} GiB, there {peaks[1]:.1f} GiB", peaks[0] < read_csv.LIMIT_GIB)
    work = f"CSV of {rows:,} rows to the checked table `ratings` on disk"
    return Row(work, "`pandas.read_csv`, which checks and writes nothing", ratios, 1.0, finding)


@cache
def python_of(package: str) -> Path:
    """The interpreter of the environment of a package, which is made if it is missing.

    Raises:
        subprocess.SubprocessError: the package cannot be installed.
    """
    requirements = PACKAGES[package]
    folder = generate.cached("compare") / requirements[0].replace("==", "-")
    python, finished = folder / "bin" / "python", folder / "finished"
    if not finished.exists():
        _tell(f"Installing {requirements[0]} (minutes, the first time)")
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", *requirements])
        finished.touch()
    return python


def _timed(folder: Path, side: str, python: Path) -> Timed:
    threads = str(os.cpu_count() or 1)
    # implicit's documentation asks for one thread of BLAS beside its own threads.
    blas = "1" if side in ("implicit_als_package", "lists_implicit") else threads
    limits = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads}
    limits |= {"OPENBLAS_NUM_THREADS": blas, "MKL_NUM_THREADS": blas}
    told = _run([str(python), compare_sides.__file__, side, str(folder)], os.environ | limits)
    return Timed(**json.loads(told.splitlines()[-1]))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    options = {"check": True, "capture_output": True, "text": True, "timeout": _MOST_SECONDS}
    return subprocess.run(command, env=environment, **options).stdout


def _reason(error: subprocess.SubprocessError) -> str:
    """The last line of what the process said."""
    said = (getattr(error, "stderr", None) or "").strip().splitlines()
    return said[-1] if said else str(error)


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of Markdown, each as soon as its row is measured."""
    yield "| work | against | ratio (lowest to highest) | aim | met | results |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield f"| {row.work} | {row.against} | {' | '.join(_cells(row))} |"


def _cells(row: Row) -> tuple[str, str, str, str]:
    aim = f"≤ {row.most:g}" if row.most is not None else "reported"
    if not row.ratios:
        return "–", aim, "–", f"left out: {row.reason}"
    ratio = statistics.median(row.ratios)
    of_ratio = None if row.most is None else ratio <= row.most
    of_results = row.finding.is_met if row.finding else None
    verdicts = [verdict for verdict in (of_ratio, of_results) if verdict is not None]
    told = f"{_digits(ratio)} ({_digits(min(row.ratios))} to {_digits(max(row.ratios))})"
    met = ("yes" if all(verdicts) else "**no**") if verdicts else "–"
    return told, aim, met, row.finding.told if row.finding else "–"


def _digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Prepare the data, compare and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_RATINGS:,} ratings and one pair each")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--ratings", type=int, help=f"generated ratings (default: {_RATINGS:,})")
    size.add_argument("--archive", type=Path, help="an archive such as ml-1m.zip instead; no CSV")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--pairs", type=int, help="how often both sides run (default: 3)")
    asked = parser.parse_args()
    names = asked.only or NAMES
    for line in machine(os.getloadavg()[0]):
        print(line)
    print(f"{os.cpu_count()} threads on each side; {', '.join(first for first, *_ in PACKAGES.values())}", end="\n\n")
    pairs = asked.pairs or (1 if asked.quick else 3)
    if asked.archive:
        _print(asked.archive.name, asked.archive, names, pairs)
        return
    if _CSV in names:
        rows = _QUICK_CSV_ROWS if asked.quick else _CSV_ROWS
        print("\n".join(table([compared_csv(rows, pairs)])), end="\n\n", flush=True)
    _print("Generated", _generated(asked.ratings or (_QUICK_RATINGS if asked.quick else _RATINGS)), names, pairs)
    if asked.ratings or asked.quick:
        return
    if "segments" in names:
        _print("Generated, for segments", _generated(_SEGMENT_RATINGS), ["segments"], 1)
    if _ARCHIVE.exists():
        _print("MovieLens 1M", _ARCHIVE, names, 1)
    else:
        print(f"MovieLens 1M is left out: there is no {_ARCHIVE}")


def _print(title: str, source: Path, names: Collection[str], pairs: int) -> None:
    wanted = [one for one in COMPARISONS if one.name in names]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{title}: {prepare(Path(scratch), source)}; pairs: {pairs}", end="\n\n")
        for line in table(_rows(wanted, Path(scratch), pairs)):
            print(line, flush=True)
    print()


def _rows(wanted: Sequence[Comparison], folder: Path, pairs: int) -> Iterator[Row]:
    has_lists = False
    for comparison in wanted:
        _tell(comparison.name)
        if comparison.needs_lists and not has_lists:
            prepare_lists(folder)
            has_lists = True
        yield compared(comparison, folder, pairs)


def _generated(ratings: int) -> Path:
    size = generate.Size.of(ratings)
    folder = generate.cache(size, 0)
    generate.generate(folder, size, formats=("csv",))
    return folder / "csv"


if __name__ == "__main__":
    main()
