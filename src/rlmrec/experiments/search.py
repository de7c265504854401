"""Search: let Optuna propose the candidates of a sweep, and prune those that fall behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlmrec.errors import ConfigError
from rlmrec.experiments.results import Results, TrialRecord
from rlmrec.experiments.sweep import Candidate, MakeTrial, Options, Sweep, Variant, candidate
from rlmrec.experiments.trial import Trial

if TYPE_CHECKING:
    import optuna

    from rlmrec.experiments.runner import Prune

STARTUP = 5  # candidates of a variant that end before any is pruned


def search(
    sweep: Sweep,
    make: MakeTrial,
    results: Results[TrialRecord],
    run: Callable[[Sequence[Trial], Prune | None], object],
    storage: Path,
    width: int = 1,
    on_ended: Callable[[int], object] = lambda _: None,
) -> list[Candidate]:
    """Let Optuna propose candidates for each variant, given the validation metrics of earlier ones.

    The studies are stored in a file: a killed search first runs the candidates that it had begun, then requests more.
    A candidate that failed or was pruned counts and is not repeated. With one candidate in a round and one process,
    the same seed repeats the same search.

    Args:
        sweep: with [search].
        make: makes the trial of a spec.
        results: with the records of the trials.
        run: runs trials, and ends those early that its second argument says; those of all variants in a round together.
        storage: Optuna's journal file.
        width: candidates of a variant in a round.
        on_ended: called before each round and at the end with the number of candidates that have ended, of all
            variants together.

    Returns:
        the candidates of all variants.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("[search] needs Optuna: pip install 'rlmrec[sweep]', or give a [grid]") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    studies = [_Study(sweep, variant, make, results, storage) for variant in sweep.variants]
    while asked := [(study, *one) for study in studies for one in study.ask(width)]:
        on_ended(sum(study.ended() for study in studies))
        _run_round(asked, sweep.prunes, results, run)
        for study, number, one in asked:
            study.tell(number, one)
    on_ended(sum(study.ended() for study in studies))
    return [one for study in studies for one in study.candidates()]


def _run_round(
    asked: list[tuple[_Study, int, Candidate]],
    prunes: bool,
    results: Results[TrialRecord],
    run: Callable[[Sequence[Trial], Prune | None], object],
) -> None:
    """Run the trials of some candidates. To prune, the first seed of each runs before the others."""
    if not prunes:
        run([trial for _, _, one in asked for trial in one.trials], None)
        return
    judges = {one.trials[0].id: (study, number) for study, number, one in asked}

    def prune(trial: Trial, epoch: int, value: float) -> bool:
        study, number = judges[trial.id]
        return study.falls_behind(number, epoch, value)

    new = [one.trials[0] for _, _, one in asked if not one.is_pruned(results)]
    run(new, prune)
    rest = [trial for _, _, one in asked for trial in one.trials[1:] if not one.is_pruned(results)]
    if rest:
        run(rest, None)


class _Study:
    """Optuna's study of a variant: what it has tried, and what it proposes.

    Args:
        sweep: with [search].
        variant: backbone and alignment.
        make: makes the trial of a spec.
        results: with the records of the trials.
        storage: Optuna's journal file.
    """

    def __init__(
        self,
        sweep: Sweep,
        variant: Variant,
        make: MakeTrial,
        results: Results[TrialRecord],
        storage: Path,
    ) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.sweep, self.variant, self.make, self.results = sweep, variant, make, results
        self.seed = int(sweep.values["search"].get("seed", 0))
        # Another space, other options or another dataset make another study, so that nothing is mixed.
        trial = make(sweep.spec(variant, sweep.base(variant), sweep.seeds[0]))
        about = [trial.as_dict(), sweep.space(variant), sweep.seeds, sweep.metric, self.seed]
        if not sweep.prunes:
            about.append("prune = false")
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(storage))),
            study_name="-".join((*variant, digest)),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=sweep.warmup),
        )

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _candidate(self, params: Options) -> Candidate:
        options = {**self.sweep.base(self.variant), **params}
        return candidate(self.sweep, self.variant, options, self.make)

    def candidates(self) -> list[Candidate]:
        """Return all candidates, in the order in which they were proposed."""
        return [self._candidate(one.params) for one in self._trials()]

    def ended(self) -> int:
        """Return the number of candidates that have ended."""
        return sum(one.state.is_finished() for one in self._trials())

    def ask(self, width: int) -> list[tuple[int, Candidate]]:
        """Return the candidates that a killed search had begun, and new ones up to ``width``, with their numbers."""
        import optuna

        tried = self._trials()
        begun = [one for one in tried if one.state == optuna.trial.TrialState.RUNNING]
        asked = [(one.number, self._candidate(one.params)) for one in begun]
        for number in range(len(tried), min(len(tried) + max(0, width - len(begun)), self.sweep.candidates)):
            # A seed for each candidate: a continued search must not draw the same points again. constant_liar keeps
            # candidates of one round apart.
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.seed * 100_003 + number, constant_liar=True
            )
            new = self.study.ask()
            for name, space in self.sweep.space(self.variant).items():
                _suggest(new, name, space)
            asked.append((new.number, self._candidate(new.params)))
        return asked

    def falls_behind(self, number: int, epoch: int, value: float) -> bool:
        """Report a validation of a candidate's first trial; return whether Optuna would end it there."""
        trial = self._report(number, [(epoch, value)])
        return trial is not None and trial.should_prune()

    def tell(self, number: int, one: Candidate) -> None:
        """Report how a candidate ended."""
        from optuna.trial import TrialState

        # Of a trial that an earlier sweep has run, Optuna knows nothing yet.
        record = self.results.records.get(one.trials[0].id)
        self._report(number, [] if record is None else record.get("validation_curve", []))
        value = one.value(self.results, self.sweep.metric)
        if one.is_pruned(self.results):
            state = TrialState.PRUNED
        else:
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
        # Another process with the same search has the same trials and may have reported it first.
        self.study.tell(number, value, state=state, skip_if_finished=True)

    def _report(self, number: int, curve: Sequence[Sequence[float]]) -> optuna.trial.Trial | None:
        """Report pairs of epoch and validation Recall@20; return the trial, None if another process has ended it."""
        import optuna

        there = self._trials()[number]
        trial = optuna.trial.Trial(
            self.study, there._trial_id
        )  # the only way to one that was asked for before
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            for epoch, value in curve:
                if epoch not in there.intermediate_values:
                    trial.report(value, int(epoch))
            return None if there.state.is_finished() else trial
        return None


def _suggest(asked: optuna.trial.Trial, name: str, space: Any) -> None:
    if isinstance(space, list):
        asked.suggest_categorical(name, space)
    elif isinstance(space["low"], int) and isinstance(space["high"], int):
        asked.suggest_int(name, **space)
    else:
        asked.suggest_float(name, **space)
