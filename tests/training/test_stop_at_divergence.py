from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from secura.errors import TrainingError
from secura.training.stop_at_divergence import StopAtDivergence


def _train(losses: list[float], folder: Any, *, terms: list[float] | None = None) -> int:
    """How many steps are taken until the end, or until training is stopped; `terms` is what a strategy adds."""
    arguments = TrainingArguments(output_dir=str(folder), learning_rate=0.5, use_cpu=True, report_to="none")
    state, callback = TrainerState(), StopAtDivergence()
    for step, loss in enumerate(losses, start=1):
        state.global_step = step
        state.log_history.append({"loss": loss, "step": step})
        if terms is not None:
            state.log_history[-1]["continual_loss"] = terms[step - 1]
        callback.on_log(arguments, state, TrainerControl(), logs={"loss": loss})
    return state.global_step


def test_a_loss_far_above_where_it_began_stops_the_run_and_names_the_rate(tmp_path: Any) -> None:
    losses = [4.5, 4.6, 6.0, 9.0, 11.0, 11.2, 11.2, 11.2]
    with pytest.raises(TrainingError, match=r"was 4\.50 at the first step and is 8\.36 .* now 0\.5") as raised:
        _train(losses, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "losses",
    [
        [4.5, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4],
        [0.1, 0.1, 9.0, 0.1, 0.1, 0.1, 0.1],  # one hard batch
        [0.2, 1.0, 1.5, 1.9, 2.0, 2.0, 2.0],  # worse, but by less than 2 nats
        [10.0, 12.0, 13.0, 13.0, 13.0, 13.0, 13.0],  # above by 2 nats, but not by half
        [4.5, 20.0, 20.0],  # too short to tell
    ],
)
def test_other_runs_go_on_to_their_end(losses: list[float], tmp_path: Any) -> None:
    assert _train(losses, tmp_path) == len(losses)


def test_what_a_strategy_adds_is_no_divergence_of_the_task(tmp_path: Any) -> None:
    losses = [1.0, 1.2, 20.0, 1.5, 9.0, 19.0, 18.0]
    assert _train(losses, tmp_path, terms=[0.0, 0.5, 19.4, 0.9, 8.5, 18.6, 17.7]) == len(losses)


def test_a_task_that_diverges_beside_a_strategy_is_stopped(tmp_path: Any) -> None:
    with pytest.raises(TrainingError, match=r"was 4\.00 at the first step and is 10\.20"):
        _train([4.5, 5.0, 9.0, 11.0, 12.0, 16.5], tmp_path, terms=[0.5] * 6)
