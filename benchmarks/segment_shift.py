"""How far segments move when only the fit is another, and when the users are: what the limit of the check rests on.

Total variation distance of the segments' shares, and the similarity of segments, between a fit on all train users and
fits with other seeds, with some users less, and on users of one gender only. Usage:
python benchmarks/segment_shift.py ARCHIVE
"""

import sys
import tempfile
from pathlib import Path

import narwhals as nw
import numpy as np
from catalogue import indexed

from recsys_assets.home.settings import Settings
from recsys_assets.recommender.data import splitting
from recsys_assets.recommender.data.frames import lazy, pseudo_random, row_count, to_polars
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.models import segments
from recsys_assets.recommender.models.segments.shares import ComparedSegments, SizedSegments, share_shift

_PERCENT = 100


def main() -> None:
    """Print a line per fit."""
    settings = Settings()
    with tempfile.TemporaryDirectory() as folder:
        tables = indexed(Path(sys.argv[1]), Path(folder))
    users, items = tables["users"], tables["items"]
    index = Index.of(users, items)
    split = settings.splitting
    partition = splitting.partition_users(users, train_share=split.train_share, seed=split.seed)
    histories = lazy(to_polars(splitting.histories(tables["ratings"], partition, "train")))

    def fitted(of: nw.LazyFrame, seed: int = settings.segments.seed) -> SizedSegments:
        rows = histories.join(of.select("user"), on="user", how="semi")
        model = segments.fit(rows, index=index, settings=settings.segments.model_copy(update={"seed": seed}))
        assigned = segments.assign(model, rows, rows.head(0))
        return SizedSegments.of(model, assigned, items, n_users=row_count(users))

    def without(percent: int) -> nw.LazyFrame:
        return users.filter(pseudo_random(0, ["user"], stream=1) % _PERCENT >= percent)

    usual = fitted(users)
    among = usual.similarity(usual)[np.triu_indices(len(usual.shares), 1)]
    print(f"two segments of one fit: similarity {among.mean():.2f} on average")
    fits = {f"seed {seed}": lambda seed=seed: fitted(users, seed) for seed in (1, 2, 3)}
    fits |= {f"{percent} % of the users less": lambda p=percent: fitted(without(p)) for percent in (1, 5, 10)}
    if "gender" in users.collect_schema().names():
        for gender in to_polars(users, "gender")["gender"].drop_nulls().unique().sort():
            fits[f"gender {gender} only"] = lambda g=gender: fitted(users.filter(nw.col("gender") == g))
    for name, fit in fits.items():
        table = ComparedSegments(fit(), usual).table
        alike = table["similarity"].drop_nulls()
        print(f"{name}: shift {share_shift(table):.2f}, similarity of partners {alike.min():.2f} to {alike.max():.2f}")


if __name__ == "__main__":
    main()
