"""A search's study: what Optuna proposes and is told, kept in the sweep's folder.

Each proposal is drawn with a seed of its own, so that a search that was killed proposes what it
would have proposed; trials that were running then are handed out again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.sweeps.file import SweepFile, format_value
from qk_lightning.sweeps.space import Range, Search
from qk_lightning.sweeps.trials import COMPLETE, FAILED, PRUNED, RUNNING, Trial

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
INSTALL = 'pip install "qk_lightning[search]"'
MADE_OF = "made of"  # attribute of the study


def import_optuna() -> Any:
    """Import Optuna.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        expected = f"Optuna, which is not installed ({error})"
        raise ConfigError(Problem("search", None, expected, INSTALL)) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """The trials of one search.

    Args:
        file: the sweep, with its search.
        folder: where the journal stands.

    Raises:
        ConfigError: Optuna is not installed, or the search in the folder is another one.
    """

    def __init__(self, file: SweepFile, folder: Path) -> None:
        assert file.search is not None
        self.file, self.search = file, file.search
        self._optuna = import_optuna()
        storages = self._optuna.storages
        folder.mkdir(parents=True, exist_ok=True)
        backend = storages.journal.JournalFileBackend(str(folder / JOURNAL))
        self._study: optuna.Study = self._optuna.create_study(
            study_name=file.name,
            storage=storages.JournalStorage(backend),
            direction="minimize" if file.metrics[self.search.metric] == "min" else "maximize",
            pruner=_pruner(self._optuna, self.search),
            load_if_exists=True,
        )
        self._distributions = {key: _distribution(self._optuna, of)
                               for key, of in file.space.items()}  # fmt: skip
        self._handed_out: set[int] = set()
        self._check_made_of()
        self._drop_torn()
        if file.baseline and not self._asked():
            assert isinstance(file.baseline, dict)
            self._study.enqueue_trial(self._params(file.baseline))

    def next(self) -> Trial | None:
        """Return a trial to train, None where all have been handed out."""
        states = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if frozen.number not in self._handed_out and self._is_whole(frozen):
                return self._hand_out(frozen)
        asked = self._asked()
        waiting = any(frozen.state == states.WAITING for frozen in asked)
        if len(asked) >= self.search.trials and not waiting:
            return None
        self._study.sampler = _sampler(self._optuna, self.search, len(asked))
        trial = self._study.ask(self._distributions)
        return self._hand_out(self._study.trials[trial.number])

    def retry_failed(self) -> None:
        """Ask again for what trials that failed would have trained, each once."""
        states = self._optuna.trial.TrialState
        asked = self._asked()
        if any(one.state == states.WAITING for one in asked):
            return
        for place, one in enumerate(asked):
            later = [other.params for other in asked[place + 1 :]]
            if one.state == states.FAIL and one.params not in later:
                self._study.enqueue_trial(one.params)

    def report(self, number: int, step: int, value: float) -> bool:
        """Tell a validation loss during training.

        Args:
            number: the trial.
            step: the optimiser step; one that was told before is left as it is.
            value: the loss.

        Returns:
            Whether the trial should be pruned.
        """
        frozen = self._study.trials[number]
        trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
        if step not in frozen.intermediate_values:
            trial.report(value, step)
        return bool(trial.should_prune())

    def tell(self, number: int, state: str, value: float | None = None) -> None:
        """Tell how a trial ended.

        Args:
            number: the trial.
            state: complete, pruned or failed.
            value: the metric of a complete one.
        """
        states = self._optuna.trial.TrialState
        if state == COMPLETE and (value is None or not math.isfinite(value)):
            state = FAILED
        known = {COMPLETE: states.COMPLETE, PRUNED: states.PRUNED, FAILED: states.FAIL}
        self._study.tell(number, value if state == COMPLETE else None, known[state])

    def trials(self) -> list[Trial]:
        """Return all trials that were handed out, now or earlier."""
        states = self._optuna.trial.TrialState
        names = {states.COMPLETE: COMPLETE, states.PRUNED: PRUNED,
                 states.FAIL: FAILED, states.RUNNING: RUNNING}  # fmt: skip
        found = []
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state in names and self._is_whole(frozen):
                # The value of a pruned trial is Optuna's last report, which is no result.
                value = frozen.value if frozen.state == states.COMPLETE else None
                values, step = self._values(frozen.params), frozen.last_step
                found.append(Trial(frozen.number, values, names[frozen.state], value, step))
        return found

    def _is_whole(self, frozen: Any) -> bool:
        """Whether all of a trial's values were written before something ended the process."""
        return set(frozen.params) >= set(self.file.space)

    def _asked(self) -> list[Any]:
        """Return the trials that count: handed out, or waiting to be."""
        waiting = self._optuna.trial.TrialState.WAITING
        every = self._study.get_trials(deepcopy=False)
        return [one for one in every if one.state == waiting or self._is_whole(one)]

    def _drop_torn(self) -> None:
        """End trials that a kill left with some of their values; they are asked for again."""
        states = self._optuna.trial.TrialState
        for frozen in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if not self._is_whole(frozen):
                self._study.tell(frozen.number, state=states.FAIL)

    def _hand_out(self, frozen: Any) -> Trial:
        self._handed_out.add(frozen.number)
        return Trial(frozen.number, self._values(frozen.params), RUNNING)

    def _values(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a row's values of what Optuna drew."""
        values = {}
        for key, of in self.file.space.items():
            if isinstance(of, Range):
                values[key] = of.rounded(params[key])
            else:
                values[key] = next(one for one in of if format_value(one) == params[key])
        return values

    def _params(self, values: dict[str, Any]) -> dict[str, Any]:
        return {key: values[key] if isinstance(of, Range) else format_value(values[key])
                for key, of in self.file.space.items()}  # fmt: skip

    def _check_made_of(self) -> None:
        """Refuse to go on with a search of other things.

        Raises:
            ConfigError: with what has changed.
        """
        file = self.file
        made_of = {"preset": file.preset, "overrides": list(file.overrides),
                   "axes": {key: _plain(of) for key, of in file.space.items()},
                   "seeds": list(file.seeds), "search.metric": self.search.metric}  # fmt: skip
        made_of = json.loads(json.dumps(made_of))
        before = self._study.user_attrs.get(MADE_OF)
        if before is None:
            self._study.set_user_attr(MADE_OF, made_of)
            return
        changed = [key for key in made_of if made_of[key] != before.get(key)]
        if changed:
            expected = "what the search was begun with: its trials would not compare"
            fix = "give the sweep another `name:`; runs that are equal are not trained again"
            problems = [Problem(key, made_of[key], expected, fix) for key in changed]
            raise ConfigError(problems)


def _plain(of: Range | tuple[Any, ...]) -> Any:
    return of.to_values() if isinstance(of, Range) else list(of)


def _sampler(optuna: Any, search: Search, number: int) -> Any:
    seed = search.seed * 100_003 + number
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup)


def _pruner(optuna: Any, search: Search) -> Any:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=search.startup)
    return optuna.pruners.NopPruner()


def _distribution(optuna: Any, of: Range | tuple[Any, ...]) -> Any:
    kinds = optuna.distributions
    if not isinstance(of, Range):
        return kinds.CategoricalDistribution([format_value(option) for option in of])
    if of.is_whole:
        return kinds.IntDistribution(of.low, of.high, log=of.log, step=of.step or 1)
    return kinds.FloatDistribution(of.low, of.high, log=of.log, step=of.step)
