"""The segment model: latent Dirichlet allocation (LDA) on who rated what; how it is fitted, stored and applied.

Users are the documents, items the words, ratings the counts. Tables from the model are in `profiles`; predictions are
in `ratings`, `residuals` and `registry/next_item`.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import narwhals as nw
import numpy as np
import polars as pl
from pydantic import Field
from scipy import sparse
from scipy.special import psi

from recsys_assets.recommender.data.automatic import resolved
from recsys_assets.recommender.data.index import Index
from recsys_assets.recommender.data.preferences import is_events
from recsys_assets.recommender.data.sections import Count, Section
from recsys_assets.recommender.features.matrices import user_item_matrix

if TYPE_CHECKING:
    from sklearn.decomposition import LatentDirichletAllocation

# Limits of the batch size: smaller batches take longer and learn no better, larger ones save no more time.
_BATCH_SIZES = (256, 4_096)
_UPDATES_PER_PASS = 20
_LDA_FILE, _ITEMS_FILE, _FACTS_FILE = "lda.skops", "items.parquet", "model.json"


class SegmentSettings(Section):
    """Segments: LDA on the users' histories (case study B)."""

    tried: ClassVar = {"n_segments": (5, 10, 20, 40, 80)}

    n_segments: int = Field(20, ge=2, description="Number of segments; 20 as in case study B.")
    passes: int = Field(3, ge=1, description="Number of passes over the histories.")
    batch_size: Count = Field(
        "auto",
        description="Users per update of the topics: auto (a twentieth of the users, within 256 to 4,096), or a "
        "number.",
    )
    learning_offset: float = Field(
        5.0, gt=0, description="tau_0 of online LDA: a larger value slows down the first updates."
    )
    learning_decay: float = Field(
        0.6, gt=0.5, le=1, description="kappa of online LDA: how fast the weight of updates falls."
    )
    seed: int = Field(0, ge=0, description="Seed of the topics.")


@dataclass(frozen=True, eq=False)
class SegmentModel:
    """A fitted LDA over the items that had a rating at the time of the fit.

    Attributes:
        lda: the fitted estimator; its columns are `items`.
        items: dense ids of the known items, shape (M',), int32, ascending.
        n_items: size of the catalogue.
        index: fingerprint of the id map that the model was fitted with.
        zero: rating that counts 0: 0, or the lowest rating if that is negative.
    """

    lda: "LatentDirichletAllocation"
    items: np.ndarray
    n_items: int
    index: str
    zero: float = 0.0

    @property
    def n_segments(self) -> int:
        """Number of segments."""
        return int(self.lda.components_.shape[0])

    @property
    def item_known(self) -> np.ndarray:
        """Whether each item had a rating when the model was fitted, shape (n_items,)."""
        return np.bincount(self.items, minlength=self.n_items) > 0

    @property
    def item_probabilities(self) -> np.ndarray:
        """Probability of each item in each segment, shape (n_segments, n_items), float64; rows sum to 1."""
        probabilities = np.zeros((self.n_segments, self.n_items))
        components = self.lda.components_
        probabilities[:, self.items] = components / components.sum(axis=1, keepdims=True)
        return probabilities

    @property
    def segment_shares(self) -> np.ndarray:
        """Share of each segment in the training ratings, shape (n_segments,), float64; sums to 1."""
        totals = self.lda.components_.sum(axis=1)
        return totals / totals.sum()

    def transform(self, matrix: sparse.csr_array) -> np.ndarray:
        """Infer the affinities of users to segments from their ratings, without changing the model.

        Args:
            matrix: users by items, shape (n, n_items), from `user_item_matrix`. Unknown items are left out. A user
                with no other item has the same affinity to every segment.

        Returns:
            Shape (n, n_segments), float32; rows sum to 1.

        Raises:
            ValueError: the matrix has another number of items than the model.
        """
        if matrix.shape[1] != self.n_items:
            raise ValueError(
                f"the segment model was fitted with {self.n_items} items, these ratings have {matrix.shape[1]}; "
                "materialize segment_model and what depends on it again: dg launch --assets 'segment_model+'"
            )
        from recsys_assets.recommender.models.segments.inference import infer

        lda = self.lda
        gamma = np.ones((matrix.shape[0], self.n_segments))
        infer(_counts(matrix[:, self.items], self.zero), lda.exp_dirichlet_component_, gamma, **_rules(lda))
        return (gamma / gamma.sum(axis=1, keepdims=True)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write lda.skops, items.parquet and model.json; equal models give equal files."""
        from skops import io as skops

        (folder / _LDA_FILE).write_bytes(_reproducible(skops.dumps(self.lda)))
        pl.DataFrame({"item": self.items}).write_parquet(folder / _ITEMS_FILE)
        facts = {"n_items": self.n_items, "index": self.index, "zero": self.zero}
        (folder / _FACTS_FILE).write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "SegmentModel":
        """Read the files that `save` writes; refuse a file with a type that skops does not trust by default."""
        from skops import io as skops

        lda = skops.load(folder / _LDA_FILE)
        items = pl.read_parquet(folder / _ITEMS_FILE)["item"].to_numpy()
        return cls(lda=lda, items=items, **json.loads((folder / _FACTS_FILE).read_text()))


def fit(
    histories: nw.LazyFrame,
    *,
    index: Index,
    settings: SegmentSettings,
    log: Callable[[str], None] | None = None,
) -> SegmentModel:
    """Fit online LDA (Hoffman, Blei and Bach 2010) with ratings as counts.

    docs/decisions/lda-settings.md explains why the defaults differ from case study B.

    Args:
        histories: user, item, rating; the order of rows does not matter. If the lowest rating is negative, each rating
            counts its distance from it.
        index: id map of users and items.
        settings: of LDA, where `learning_offset` is tau_0 and `learning_decay` is kappa in the paper. A `batch_size` of
            `auto` is `automatic_batch_size`; each update touches all segments × items.
        log: called with one line per pass.

    Raises:
        ValueError: there is no rating.
    """
    from sklearn.decomposition import LatentDirichletAllocation

    _, ratings = user_item_matrix(histories, n_items=index.n_items)
    if ratings.nnz == 0:
        raise ValueError(
            "no user of the train partition has two ratings, so there is no history to find segments in; "
            "add ratings or raise splitting.train_share"
        )
    zero = 0.0 if is_events(histories) else min(0.0, float(ratings.data.min()))
    items = np.unique(ratings.indices).astype(np.int32)
    lda = LatentDirichletAllocation(
        settings.n_segments,
        batch_size=int(resolved(settings.batch_size, automatic_batch_size(ratings.shape[0]))),
        learning_offset=settings.learning_offset,
        learning_decay=settings.learning_decay,
        total_samples=ratings.shape[0],
        random_state=settings.seed,
    )
    _learn(lda, _counts(ratings[:, items], zero), settings.passes, log or (lambda _: None))
    return SegmentModel(lda, items, index.n_items, index.fingerprint, zero)


def automatic_batch_size(n_users: int) -> int:
    """Return the users per update: a twentieth of all users, so that a pass has enough updates, within 256 to 4,096."""
    low, high = _BATCH_SIZES
    return min(max(low, n_users // _UPDATES_PER_PASS), high)


def _counts(ratings: sparse.csr_array, zero: float) -> sparse.csr_array:
    # Users who came after the fit may have rated lower than all users of the fit, and LDA refuses negative counts.
    counts = np.maximum(ratings.data - zero, 0)
    return sparse.csr_array((counts, ratings.indices, ratings.indptr), shape=ratings.shape)


def _learn(
    lda: "LatentDirichletAllocation", ratings: sparse.csr_array, passes: int, log: Callable[[str], None]
) -> None:
    """Update the estimator batch by batch.

    scikit-learn makes the first update, which draws the starting topics. `_update` makes all others in the same way.
    The batches are float64: scikit-learn adds the type's epsilon to each word probability, and float32's 1e-7 is not
    small compared with a rare item's probability.
    """
    order = np.random.default_rng(lda.random_state)
    for done in range(1, passes + 1):
        started = perf_counter()
        users = order.permutation(ratings.shape[0])
        for start in range(0, len(users), lda.batch_size):
            batch = ratings[users[start : start + lda.batch_size]].astype(np.float64)
            if done == 1 and start == 0:
                lda.partial_fit(batch)
            else:
                _update(lda, batch)
        log(f"segments: pass {done} of {passes}, {len(users):,} users in {perf_counter() - started:.1f} s")


def _update(lda: "LatentDirichletAllocation", batch: sparse.csr_array) -> None:
    """Make one update of the topics, as `LatentDirichletAllocation.partial_fit` does, in compiled loops."""
    from recsys_assets.recommender.models.segments.inference import statistics

    gamma = lda.random_state_.gamma(100.0, 0.01, (batch.shape[0], lda.n_components))
    found = statistics(batch, lda.exp_dirichlet_component_, gamma, **_rules(lda))
    weight = (lda.learning_offset + lda.n_batch_iter_) ** -lda.learning_decay
    lda.components_ *= 1 - weight
    lda.components_ += weight * (lda.topic_word_prior_ + lda.total_samples / batch.shape[0] * found)
    of_total = psi(lda.components_.sum(axis=1, keepdims=True))
    lda.exp_dirichlet_component_ = np.exp(psi(lda.components_) - of_total)
    lda.n_batch_iter_ += 1


def _rules(lda: "LatentDirichletAllocation") -> dict[str, Any]:
    return {"prior": lda.doc_topic_prior_, "max_iter": lda.max_doc_update_iter, "tolerance": lda.mean_change_tol}


def _reproducible(stored: bytes) -> bytes:
    """Renumber the objects of a skops file by first appearance and drop the time of writing.

    skops numbers objects by memory address, so each dump of one model would have other bytes and another data version.
    """
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = parts.pop("schema.json").decode()
    numbers: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> Any:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    schema = re.sub(r'("__id__": |"file": ")(\d+)', numbered, schema)
    renamed = {f"{numbers[name.removesuffix('.npy')]}.npy": content for name, content in parts.items()}
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name in sorted(renamed):
            archive.writestr(zipfile.ZipInfo(name), renamed[name])
        archive.writestr(zipfile.ZipInfo("schema.json"), schema)
    return result.getvalue()
