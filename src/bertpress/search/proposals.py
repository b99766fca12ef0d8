"""Which student to try next: a sampler of Optuna, whose trials lie in a file so that a search can go on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

from bertpress.errors import UserError
from bertpress.search.candidates import WIDTHS

JOURNAL = "trials.log"
ASKED = 25
"""Proposals that may be too dear before the sampler is taken at its word."""


class Proposal(NamedTuple):
    """A student that is to be tried."""

    number: int
    choices: dict[str, Any]


def check_installed() -> None:
    """Refuse to begin without the sampler.

    Raises:
        UserError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise UserError("search: optuna is not installed; pip install 'bertpress[search]'")


class Proposals:
    """Asks a sampler that models cost and loss of what was tried (TPE, Bergstra et al. 2011).

    Args:
        folder: of the journal.
        depth: layers of the model.
        seed: of the sampler, which begins anew with each proposal, so that a search that goes on gets the same.
        first: choices that are proposed before any other.
    """

    def __init__(self, folder: Path, depth: int, seed: int, first: Sequence[dict[str, Any]]) -> None:
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.seed, self.startup = optuna, seed, len(first)
        self.space = {
            "layers": IntDistribution(max(1, depth // 3), depth),
            "width": CategoricalDistribution(WIDTHS),
            "keep": FloatDistribution(0.1, 0.9, step=0.05),
            "learning_rate": FloatDistribution(3e-5, 3e-4, log=True),
        }
        self.study = optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        known = len(self.study.trials)
        for choices in first[known:]:
            self.study.enqueue_trial(choices)

    def next(self, affordable: Callable[[dict[str, Any]], bool], begun: Collection[int] = ()) -> Proposal | None:
        """One that has not been answered yet, else a new one; None where all that are proposed are too dear.

        Args:
            affordable: whether choices could be worth it, as far as can be told before anything is trained.
            begun: numbers of those that are under way, near which nothing else is proposed.
        """
        running = self.optuna.trial.TrialState.RUNNING
        for trial in self.study.get_trials(states=(running,)):
            if trial.number not in begun:
                return Proposal(trial.number, trial.params)
        for _ in range(ASKED):
            number = len(self.study.get_trials(deepcopy=False))
            with catch_warnings():
                simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)  # of what keeps off those under way
                self.study.sampler = self.optuna.samplers.TPESampler(
                    seed=self.seed + number, n_startup_trials=self.startup, constant_liar=bool(begun)
                )
            asked = self.study.ask(self.space)
            if affordable(asked.params):
                return Proposal(asked.number, asked.params)
            self.study.tell(asked, state=self.optuna.trial.TrialState.FAIL)
        return None

    def answered(self) -> list[Proposal]:
        """Those of earlier sessions that were answered."""
        return [Proposal(trial.number, trial.params) for trial in self.study.trials if trial.state.is_finished()]

    def answer(self, number: int, cost: float, lost: float) -> None:
        """What came of a proposal; infinite where nothing did.  Later answers to the same are left out."""
        if self.study.trials[number].state.is_finished():
            return
        if max(cost, lost) == float("inf"):
            self.study.tell(number, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(number, [cost, lost])
