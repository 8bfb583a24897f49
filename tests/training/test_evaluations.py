import pytest
from transformers import TrainerState

from secura.training.evaluations import Evaluations, Look, looks_of


def _look(loss: float | None, kept: float | None) -> Look:
    return Look(step=1, loss=loss, kept=kept)


def test_by_gain_the_lowest_loss_is_best_whatever_is_lost() -> None:
    assert _look(1.0, 0.1).score("gain", 0.95) > _look(1.5, 1.0).score("gain", 0.95)


def test_by_retention_the_lowest_loss_of_those_that_keep_enough_is_best_or_else_what_keeps_most() -> None:
    looks = [_look(1.0, 0.9), _look(1.2, 0.96), _look(1.5, 1.0)]
    assert max(looks, key=lambda look: look.score("retention", 0.95)) == looks[1]
    assert max([looks[0], _look(9.0, 0.94)], key=lambda look: look.score("retention", 0.95)).kept == 0.94
    assert _look(1e5, 0.95).score("retention", 0.95) > _look(0.0, 0.94).score("retention", 0.95)


def _evaluations(patience: int | None) -> Evaluations:
    return Evaluations(every=5, look=lambda step: _look(1.0, None), best="gain", keeps=0.9, patience=patience)


@pytest.mark.parametrize(
    ("patience", "step", "best", "over"), [(2, 20, 10, True), (2, 15, 10, False), (None, 90, 5, False)]
)
def test_it_is_over_after_as_many_looks_without_a_better_one(
    patience: int | None, step: int, best: int, over: bool
) -> None:
    assert _evaluations(patience).is_over(TrainerState(global_step=step, best_global_step=best)) == over


def test_looks_are_read_from_the_log_of_the_trainer() -> None:
    log = [{"loss": 2.0, "step": 1}, {"eval_loss": 1.5, "eval_knowledge_kept": 0.5, "step": 2}]
    assert looks_of(TrainerState(log_history=log)) == [Look(step=2, loss=1.5, kept=0.5)]
    assert _evaluations(None).metrics(_look(None, 0.5)) == {"eval_knowledge_kept": 0.5, "eval_score": 0.0}
