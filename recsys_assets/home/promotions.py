"""The record of promotions: one numbered JSON file per decision, never changed; and which configuration is served.

A decision is recorded before any model is made from it. The served configuration is read from the served model and the
lists themselves, so that the record stays right if a process dies in between. The gate is in `recommender.promotion`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys_assets.errors import RecsysError
from recsys_assets.home.layout import HomeError
from recsys_assets.home.unfinished import write_atomically
from recsys_assets.home.versions import STATE_FOLDER, AssetStore, load
from recsys_assets.recommender.promotion.gate import Comparison, Configuration, Decision, Part, Verdict, best_of
from recsys_assets.recommender.serving.recommendations import UNKNOWN, MadeWith


class PromotionError(RecsysError):
    """There is no such promotion to go back to. The message lists the possible ones."""


@dataclass(frozen=True)
class Promotion:
    """One decision about a configuration.

    Attributes:
        number: number of the decision, from 1.
        when: time of the decision, ISO 8601, UTC.
        verdict: `promoted`, `kept` (the previous configuration stays in use) or `rolled back`.
        reason: reason in words.
        configuration: the configuration that was judged.
        contests: its comparisons with other configurations and baselines.
        data_versions: data versions of the tables behind its fit and its scores.
        run_id: id of the Dagster run.
    """

    number: int
    when: str
    verdict: Verdict
    reason: str
    configuration: Configuration
    contests: Sequence[Comparison] = ()
    data_versions: Mapping[str, str] | None = None
    run_id: str = ""

    @property
    def in_use_from_here(self) -> bool:
        """Whether this decision puts its configuration into use."""
        return self.verdict != "kept"

    @property
    def again(self) -> str:
        """The command that goes on with what is made from this decision."""
        return "rollback" if self.verdict == "rolled back" else "run"


class Promotions:
    """The record of decisions in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Promotion]:
        """All decisions, the oldest first.

        Raises:
            HomeError: a record is damaged.
        """
        return [_read(path) for path in sorted(self._folder.glob("*.json"))]

    def current(self) -> Promotion | None:
        """The decision that put the configuration in use into use; None if nothing was promoted yet."""
        return next((promotion for promotion in reversed(self.all()) if promotion.in_use_from_here), None)

    def best(self) -> Configuration | None:
        """The best configuration that was ever in use; see `best_of`."""
        return best_of((each.verdict, each.configuration, each.contests) for each in self.all())

    def served(self, store: AssetStore) -> Promotion | None:
        """The decision behind the served model. It differs from `current` if a run was interrupted after a decision."""
        model, _ = _made_with(store)
        used = [promotion for promotion in reversed(self.all()) if promotion.in_use_from_here]
        return next((each for each in used if model in (UNKNOWN, each.configuration.name)), None)

    def broken_off(self, store: AssetStore) -> Promotion | None:
        """The current decision if the served model or the lists still have another configuration; else None."""
        current = self.current()
        others = {*_made_with(store)} - {UNKNOWN, current.configuration.name} if current else set()
        return current if others else None

    def not_served(self, store: AssetStore) -> str:
        """Why users see lists of another configuration than the last selected one; empty if they see its lists."""
        known, served = self.all(), self.served(store)
        selected = next((each for each in reversed(known) if each.verdict != "rolled back"), None)
        # Users see lists only: another rating model makes the same ones.
        if selected is None or served is None or selected.configuration.ranking == served.configuration.ranking:
            return ""
        if selected.verdict == "kept":
            reason = selected.reason
        elif selected == known[-1]:
            reason = "It is promoted, but its model and lists are not complete yet. Next: `recsys-assets run`."
        else:
            reason = known[-1].reason
        return (
            f"Users see {_models(served)}, not the one that is scored as selected, {_models(selected)}. {reason} "
            "`recsys-assets promotions` lists the decisions."
        )

    def withdrawn(self) -> list[Part]:
        """The ranking models, with their settings, that a person rolled back from and did not go back to.

        Users see lists only. With another rating model, a configuration makes the same lists and is the same here.
        """
        found: list[Part] = []
        in_use = None
        for promotion in self.all():
            if not promotion.in_use_from_here:
                continue
            if promotion.verdict == "rolled back" and in_use:
                found.append(in_use)
            in_use = promotion.configuration.ranking
            found = [part for part in found if part != in_use]
        return found

    def earlier(self, number: int | None = None, *, broken_off: Promotion | None = None) -> Promotion:
        """The promotion to go back to: the given one, or the last one of other lists that was not rolled back from.

        Args:
            number: number of the promotion.
            broken_off: the newest decision, if the run after it was interrupted. If it is a rollback and no number is
                given, this rollback is continued.

        Raises:
            PromotionError: there is no earlier promotion, or the configuration of the given one is in use or was never
                in use.
        """
        used = [promotion for promotion in self.all() if promotion.in_use_from_here]
        if not used:
            raise PromotionError("Nothing has been promoted yet; `recsys-assets run` does it.")
        goes_on = broken_off is not None and broken_off.verdict == "rolled back"
        if goes_on and number is None:
            return used[-1]
        in_use = used[-1].configuration
        others = {each.number: each for each in used if goes_on or each.configuration != in_use}
        if number in others:
            return others[number]
        unwanted = [in_use.ranking, *self.withdrawn()]
        kept = [other for other, promotion in others.items() if promotion.configuration.ranking not in unwanted]
        if number is None and kept:
            return others[max(kept)]
        there = f"there are: {', '.join(map(str, others))}" if others else "there is no other one"
        asked = (
            f"{number} is not an earlier promotion of another configuration; "
            if number is not None
            else "all others make the lists in use or were rolled back from, name one to use it; "
            if others
            else ""
        )
        raise PromotionError(f"Nothing to go back to: {asked}{there}. `recsys-assets promotions` lists them.")

    def add(self, configuration: Configuration, decision: Decision, **facts: Any) -> Promotion:
        """Record a decision.

        Args:
            configuration: the configuration that was judged.
            decision: verdict and reason.
            facts: further fields of `Promotion`.
        """
        known = self.all()
        number = known[-1].number + 1 if known else 1
        when = datetime.now(UTC).isoformat(timespec="seconds")
        promotion = Promotion(number, when, decision.verdict, decision.reason, configuration, **facts)
        content = json.dumps(asdict(promotion), indent=1, sort_keys=True)
        write_atomically(self._folder / f"{number:06}.json", content.encode())
        return promotion


def _models(promotion: Promotion) -> str:
    configuration = promotion.configuration
    return f"configuration {configuration.name} ({configuration.models})"


def _made_with(store: AssetStore) -> tuple[str, str]:
    """Names of the configurations that the served model and the lists were made with."""
    places = {"serving_model": "", "recommendations": STATE_FOLDER}
    model, lists = (
        load(MadeWith, store.current([asset]) / folder).configuration if store.has([asset]) else UNKNOWN
        for asset, folder in places.items()
    )
    return model, lists


def _read(path: Path) -> Promotion:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Records of versions before 0.4 have this extra field.
        content.pop("scores", None)
        content["configuration"] = Configuration.from_dict(content["configuration"])
        content["contests"] = tuple(Comparison(**contest) for contest in content["contests"])
        return Promotion(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HomeError(
            f"{path} is damaged ({type(error).__name__}: {error}). Put it back from a copy, or move it away: then the "
            "decision that it recorded counts no more."
        ) from error
