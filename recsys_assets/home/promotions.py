"""The record of a home's promotions: one JSON file per decision, numbered, never changed; and what is served of it.

A decision is written down before anything is made from it. What users are shown is told by what the served model and
the lists were made with, so a process that dies between the two hides nothing. How it is decided is
`recommender.promotion`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys_assets.errors import RecsysError
from recsys_assets.home.layout import HomeError
from recsys_assets.home.versions import STATE_FOLDER, AssetStore, write_atomically
from recsys_assets.recommender.promotion.gate import Comparison, Configuration, Decision, Verdict, best_of
from recsys_assets.recommender.serving.recommendations import UNKNOWN, MadeWith


class PromotionError(RecsysError):
    """There is no such promotion to go back to; the message says what there is."""


@dataclass(frozen=True)
class Promotion:
    """One decision about a configuration.

    Attributes:
        number: from 1.
        when: ISO 8601, UTC.
        verdict: `promoted`, `kept` (the one before stays) or `rolled back`.
        reason: in words.
        configuration: the one it was about.
        contests: what it was compared with.
        data_versions: of the tables that it was trained and scored on.
        run_id: the Dagster run.
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
        """Whether the configuration is to be used from this decision on."""
        return self.verdict != "kept"


class Promotions:
    """The decisions kept in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Promotion]:
        """All decisions, the oldest first."""
        return [_read(path) for path in sorted(self._folder.glob("*.json"))]

    def current(self) -> Promotion | None:
        """The decision that says which configuration is to be used."""
        return next((promotion for promotion in reversed(self.all()) if promotion.in_use_from_here), None)

    def best(self) -> Configuration | None:
        """The best configuration that ever came into use; see `best_of`."""
        return best_of((each.verdict, each.configuration, each.contests) for each in self.all())

    def served(self, store: AssetStore) -> Promotion | None:
        """The decision by which what is served came into use: `current`, but for what was broken off."""
        model, _ = _made_with(store)
        used = [promotion for promotion in reversed(self.all()) if promotion.in_use_from_here]
        return next((each for each in used if model in (UNKNOWN, each.configuration.name)), None)

    def broken_off(self, store: AssetStore) -> Promotion | None:
        """The decision that says which configuration is to be used, if the served model or the lists are of another."""
        current = self.current()
        others = {*_made_with(store)} - {UNKNOWN, current.configuration.name} if current else set()
        return current if others else None

    def not_served(self, store: AssetStore) -> str:
        """Why users are not shown what the last refresh selected and scored as such; empty if they are."""
        known, served = self.all(), self.served(store)
        selected = next((each for each in reversed(known) if each.verdict != "rolled back"), None)
        if selected is None or served is None or selected.configuration == served.configuration:
            return ""
        if selected.verdict == "kept":
            reason = selected.reason
        elif selected == known[-1]:
            reason = "It is promoted, and not everything is made from it yet; the next `recsys-assets run` goes on."
        else:
            reason = known[-1].reason
        return (
            f"Users are shown {_models(served)}, not what is scored as selected, {_models(selected)}. {reason} "
            "`recsys-assets promotions` lists the decisions."
        )

    def withdrawn(self) -> set[str]:
        """Names of the configurations that somebody rolled back from, and not to again."""
        names: set[str] = set()
        in_use = None
        for promotion in self.all():
            if not promotion.in_use_from_here:
                continue
            if promotion.verdict == "rolled back" and in_use:
                names.add(in_use)
            in_use = promotion.configuration.name
            names.discard(in_use)
        return names

    def earlier(self, number: int | None = None, *, broken_off: Promotion | None = None) -> Promotion:
        """The promotion to go back to: the given one, or the last one that nobody has rolled back from.

        Args:
            number: of the promotion.
            broken_off: the newest decision, if nothing or not everything was made from it. If it is a rollback, it is
                gone on with where no other promotion is named.

        Raises:
            PromotionError: there is none, or the configuration of the given one is in use or never was.
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
        withdrawn = self.withdrawn()
        kept = [other for other, promotion in others.items() if promotion.configuration.name not in withdrawn]
        if number is None and kept:
            return others[max(kept)]
        there = f"there are: {', '.join(map(str, others))}" if others else "there is no other one"
        asked = (
            f"{number} is not an earlier promotion of another configuration; "
            if number is not None
            else "somebody rolled back from all others, name one to use it again; "
            if others
            else ""
        )
        raise PromotionError(f"Nothing to go back to: {asked}{there}. `recsys-assets promotions` lists them.")

    def add(self, configuration: Configuration, decision: Decision, **facts: Any) -> Promotion:
        """Keep a decision.

        Args:
            configuration: what it was about.
            decision: the verdict.
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
    return f"configuration {configuration.name} ({configuration.rating.model}, {configuration.ranking.model})"


def _made_with(store: AssetStore) -> tuple[str, str]:
    """Names of the configurations that the served model and the lists were made with."""
    places = {"serving_model": "", "recommendations": STATE_FOLDER}
    model, lists = (
        MadeWith.load(store.current([asset]) / folder).configuration if store.has([asset]) else UNKNOWN
        for asset, folder in places.items()
    )
    return model, lists


def _read(path: Path) -> Promotion:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Records of before 0.4 repeat what evaluation_scores said.
        content.pop("scores", None)
        content["configuration"] = Configuration.from_dict(content["configuration"])
        content["contests"] = tuple(Comparison(**contest) for contest in content["contests"])
        return Promotion(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HomeError(
            f"{path} is damaged ({type(error).__name__}: {error}). Put it back from a copy, or move it away: then the "
            "decision that it recorded counts no more."
        ) from error
