"""`retention.keep`: what is done before, while and after a run learns, so that a share is kept and shown to be."""

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import TrainerCallback

from secura.errors import ConfigError, StoppedError
from secura.evaluation.scoring import ScoredAnswer
from secura.experiments.methods.checks import check_settings
from secura.experiments.methods.defaults import with_method_defaults
from secura.experiments.run.keep import part_probe
from secura.experiments.run.prepare import PreparedRun, prepare_run
from secura.experiments.run.train import RunResult, train_and_report
from secura.experiments.settings.layers import load_config, load_config_of
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig
from secura.tasks.world import knowledge_questions

SMALL = ["training.batch_size=4", "data.test_rows=8", "retention.per_family=10"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


def run(
    out: Path, *more: str, keep: float = 0.9, resume: bool = False, callbacks: tuple[TrainerCallback, ...] = ()
) -> tuple[PreparedRun[RunConfig], RunResult]:
    flags: dict[str, Any] = {"method.name": "lora", "out": str(out), "retention.keep": keep}
    prepared = prepare_run(load_config(None, [*SMALL, *more], flags), resume=resume)
    return prepared, train_and_report(prepared, Console(file=io.StringIO()), callbacks)


def test_a_probe_is_parted_into_questions_that_the_base_answers_right_each_in_one_part() -> None:
    questions = knowledge_questions(10, 0)
    answers = [
        ScoredAnswer(question=question, given="", correct=place % 3 > 0) for place, question in enumerate(questions)
    ]
    probe = part_probe(answers, seed=1)
    certify = [questions[place] for place in probe.certify]
    parted = [*probe.steer, *probe.select, *certify]
    right = [answer.question for answer in answers if answer.correct]
    assert sorted(map(repr, parted)) == sorted(map(repr, right))
    assert len(probe.steer) == round(0.15 * len(right))
    assert len(certify) == round(0.6 * len(right))


def test_what_was_learned_too_hard_is_scaled_back_until_enough_is_kept_and_certified(tmp_path: Path) -> None:
    run(tmp_path / "free", "strategy.name=sequential", "training.learning_rate=1e-2", "training.steps=30", keep=0.0)
    _, result = run(tmp_path / "kept", "strategy.name=sequential", "training.learning_rate=1e-2", "training.steps=30")
    assert 0 < result.scale < 1
    assert [point.scale for point in result.points] == sorted(point.scale for point in result.points)
    assert result.certificate is not None
    total = result.retention.total
    assert result.certificate.kept is not None
    assert result.certificate.kept <= total.before - total.lost  # the certify questions are a part of all
    stored = json.loads(result.report.read_text())
    assert stored["certificate"]["sentence"] == result.certificate.sentence
    assert stored["scale"] == result.scale
    free, kept = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("free", "kept"))
    for name, value in free.items():
        torch.testing.assert_close(kept[name], value * result.scale if "lora_B" in name else value)


@pytest.mark.ci
def test_the_budget_is_steered_and_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    longer = (
        "training.steps=56",
        "training.save_every=28",
        "training.learning_rate=3e-3",
        "strategy.settings.texts=12",
    )
    _, whole = run(tmp_path / "whole", *longer)
    logged = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    budgets = [line["anchor_kl_budget"] for line in logged]
    assert len(set(budgets)) == 3  # as it began, and after looks at steps 25 and 50
    with pytest.raises(StoppedError):
        run(tmp_path / "parted", *longer, callbacks=(_StopAt(28),))
    _, resumed = run(tmp_path / "parted", *longer, resume=True)
    assert resumed.scale == whole.scale
    assert resumed.certificate == whole.certificate
    first, second = (load_file(each.saved / "adapter_model.safetensors") for each in (whole, resumed))
    assert all(torch.equal(second[name], value) for name, value in first.items())


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_without_a_strategy_named_the_model_is_held_to_its_own_text() -> None:
    kept = with_method_defaults(load_config(None, [], {"retention.keep": 0.9}))
    assert kept.strategy.name == "own_text"
    named = with_method_defaults(load_config(None, ["strategy.name=sequential"], {"retention.keep": 0.9}))
    assert named.strategy.name == "sequential"
    assert with_method_defaults(load_config()).strategy.name == "sequential"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retention.keep": 0.98, "retention.path": "none"}, "leave out --retain none"),
        ({"retention.keep": 0.98, "method.name": "corda"}, "choose lora or another method"),
    ],
)
def test_a_share_that_cannot_be_seen_to_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_settings(with_method_defaults(load_config(None, [], settings)))


@pytest.mark.parametrize("keep", [-0.1, 1.0, 98])
def test_a_share_that_is_none_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match=r"retention\.keep"):
        load_config(None, [], {"retention.keep": keep})


def test_a_sequence_keeps_no_share() -> None:
    config = load_config_of(SequenceConfig, None, ["tasks=[own_things]", "retention.keep=0.9"])
    with pytest.raises(ConfigError, match=r"set strategy\.name to own_text"):
        check_settings(with_method_defaults(config))


def test_too_few_questions_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"149 questions that the base answers right must be held back"):
        run(tmp_path / "run", "retention.per_family=2", keep=0.98)
    assert not (tmp_path / "run").exists()
