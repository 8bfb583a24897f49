from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from secura.errors import TrainingError
from secura.experiments.comparison.plan import trial
from secura.experiments.comparison.plan.grid_plan import runs_of_files
from secura.experiments.comparison.plan.model_configs import backbones
from secura.experiments.comparison.plan.trial import small_adapter, small_config, try_method, try_runs
from secura.experiments.settings.names import METHOD_NAMES

GRIDS = sorted((Path(__file__).parents[4] / "grids" / "paper").glob("*.yaml"))
ARCHITECTURES = {each.ids[0].split("/")[1]: each.config for each in backbones()}
Q_AND_V = {"target_modules": ["q_proj", "v_proj"]}
PAPER: dict[str, Any] = {"r": 150, **Q_AND_V}
SETTINGS: dict[str, dict[str, Any]] = {
    **{key: {**PAPER, "inner_r": 200} for key in ("secura", "secura-paper", "cabr-lora")},
    **dict.fromkeys(("cur-lora", "bounded-lora", "lora", "dora", "mica", "corda"), PAPER),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_small_model_keeps_what_makes_the_architecture(name: str) -> None:
    config = ARCHITECTURES[name]
    small = small_config(config)
    assert small.model_type == config.model_type
    for kept in ("num_attention_heads", "num_key_value_heads", "tie_word_embeddings", "rope_parameters", "hidden_act"):
        assert getattr(small, kept, None) == getattr(config, kept, None)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (small.hidden_size * 8, small.head_dim * 8) == (config.hidden_size, head)


def test_ranks_shrink_with_the_widths_and_other_settings_stay() -> None:
    assert small_adapter({"r": 150, "inner_r": 200, "tau": 0.3}) == {"r": 19, "inner_r": 25, "tau": 0.3}


@pytest.mark.parametrize("method", ["lora", "secura"])
def test_a_method_that_works_says_its_losses(method: str) -> None:
    said = try_method(small_config(_tiny()), method, {"r": 4}, learning_rate=1e-2)
    assert said.count("→") == 1
    assert "reloaded equal" in said


def test_a_learning_rate_that_blows_up_is_seen() -> None:
    with pytest.raises(TrainingError, match=r"not finite|differs by nan"):
        try_method(small_config(_tiny()), "full", {}, learning_rate=1e30)


def test_a_reload_that_answers_otherwise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_reloaded", lambda config, saved, trained: trial._drawn(config))
    with pytest.raises(TrainingError, match="a logit differs"):
        try_method(small_config(_tiny()), "lora", {"r": 4}, learning_rate=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("name", ["gemma-2-2b", "Qwen2-1.5B", "Meta-Llama-3-8B", "Llama-3.1-8B"])
def test_every_method_trains_saves_and_reloads_on_every_architecture(name: str, method: str) -> None:
    fold_every = 1 if method == "secura-paper" else None
    adapter = small_adapter(SETTINGS.get(method, {}))
    assert "reloaded equal" in try_method(
        small_config(ARCHITECTURES[name]), method, adapter, fold_every=fold_every, learning_rate=1e-3
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not GRIDS, reason="grids/paper is not there")
def test_every_run_of_the_papers_grids_would_work() -> None:
    trials = list(try_runs(runs_of_files(GRIDS)))
    assert trials
    assert [f"{each.label} on {each.model}: {each.said}" for each in trials if not each.worked] == []


def _tiny() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4
    )
