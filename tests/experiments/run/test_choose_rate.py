"""`training.learning_rate=auto`."""

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from secura.continual.trained_weights import copied_values
from secura.errors import ConfigError, TrainingError
from secura.experiments.run.choose_rate import Trial, chosen_rate, with_chosen_rate
from secura.experiments.run.prepare import prepare_run
from secura.experiments.settings.layers import load_config


def trials(*last: float) -> list[Trial]:
    return [Trial(rate=10.0**-number, first=4.0, last=loss) for number, loss in zip((4, 3, 2), last, strict=True)]


def test_the_smallest_rate_is_chosen_whose_loss_falls_nearly_as_far_as_at_the_best() -> None:
    assert chosen_rate(trials(3.5, 2.1, 2.0)) == 1e-3  # 1.9 of 2.0
    assert chosen_rate(trials(3.5, 2.3, 2.0)) == 1e-2  # 1.7 of 2.0
    assert chosen_rate(trials(3.5, 2.1, math.inf)) == 1e-3


def test_where_no_rate_learns_the_least_harmful_is_chosen_and_where_all_diverge_none() -> None:
    assert chosen_rate(trials(4.1, 5.0, 6.0)) == 1e-4
    with pytest.raises(TrainingError, match=r"diverges at each learning rate tried, 1\.0e-04, 1\.0e-03, 1\.0e-02"):
        chosen_rate(trials(math.inf, math.inf, math.inf))


@pytest.mark.ci
@pytest.mark.parametrize(
    "method",
    [pytest.param("lora", marks=pytest.mark.slow), "secura", pytest.param("secura-paper", marks=pytest.mark.slow)],
)
def test_trials_leave_the_weights_as_they_were_and_say_what_was_chosen(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"method.name": method, "training.learning_rate": "auto", "retention.path": "none"}
    settings = ["training.steps=8", "training.batch_size=4", "data.test_rows=4"]
    run = prepare_run(load_config(None, settings, {**flags, "out": str(tmp_path / "run")}))
    before = copied_values(run.model)
    chosen = with_chosen_rate(run, Console(width=300))
    rate = chosen.config.training.learning_rate
    assert isinstance(rate, float)
    assert f"chose {rate:.1e}" in capsys.readouterr().out
    after = copied_values(run.model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not (tmp_path / "run").exists()


def test_a_sequence_needs_a_number() -> None:
    from secura.experiments.methods.checks import check_settings
    from secura.experiments.methods.defaults import with_method_defaults
    from secura.experiments.settings.layers import load_config_of
    from secura.experiments.settings.sequence import SequenceConfig

    config = load_config_of(SequenceConfig, None, ["tasks=[own_things]", "training.learning_rate=auto"])
    with pytest.raises(ConfigError, match="auto, which secura train alone can try"):
        check_settings(with_method_defaults(config))
