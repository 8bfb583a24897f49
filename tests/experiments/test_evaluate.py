import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from secura.errors import BaseMismatchError, ConfigError, DataError, SecuraError
from secura.evaluation.score_task import score_task
from secura.evaluation.scoring import SCORING_VERSION
from secura.experiments import asking
from secura.experiments import evaluate as eval_run
from secura.experiments.evaluate import SCORES_FILE, EvalSettings, evaluate, export
from secura.tasks.catalogue import CATALOGUE
from secura.tasks.task_items import task_items, task_version_key

CONSOLE = Console(quiet=True)
TASKS = ("kinds", "homes")


def _stored(out: Path) -> dict[str, Any]:
    return json.loads((out / SCORES_FILE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def adapter(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config).save_pretrained(folder)
    return folder


def test_the_file_holds_every_answer_and_what_it_was_made_with(llama_folder: Path, tmp_path: Path) -> None:
    settings = EvalSettings(model=str(llama_folder), tasks=TASKS, count=5, out=tmp_path)
    result = evaluate(settings, CONSOLE)
    stored = _stored(tmp_path)
    assert stored["complete"]
    assert (stored["model"], stored["adapter"], stored["scoring_version"]) == (str(llama_folder), None, SCORING_VERSION)
    assert stored["arithmetic"] == "torch.float32 on cpu"
    assert stored["provenance"]["versions"]["torch"]
    assert stored["settings"]["count"] == 5
    for name, task, score in zip(TASKS, stored["tasks"], result.scores, strict=True):
        items = task_items(CATALOGUE[name], count=5)
        assert (task["task"], task["key"], task["value"]) == (name, task_version_key(CATALOGUE[name]), score.value)
        assert [each["prompt"] for each in task["items"]] == [item.prompt for item in items]  # type: ignore[union-attr]
        assert [each["right"] for each in task["items"]] == [item.answer for item in items]  # type: ignore[union-attr]
        assert [each["given"] for each in task["items"]] == [each.given for each in score.items]
    assert stored["tasks"][0]["chance"] == 0.2
    assert len(stored["tasks"][0]["items"][0]["choices"]) == 5


def test_an_adapter_is_scored_merged_as_it_is_beside_its_base(
    llama_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    settings = EvalSettings(model=str(llama_folder), adapter=str(adapter), tasks=TASKS, count=5, out=tmp_path)
    scores = evaluate(settings, CONSOLE).scores
    assert _stored(tmp_path)["merged"]
    plain = AutoModelForCausalLM.from_pretrained(llama_folder)
    merged = get_peft_model(plain, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    merged.load_adapter(str(adapter), "trained")
    merged.set_adapter("trained")
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    for name, score in zip(TASKS, scores, strict=True):
        expected = score_task(merged, tokenizer, CATALOGUE[name], task_items(CATALOGUE[name], count=5))
        assert [each.given for each in score.items] == [each.given for each in expected.items]


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "made" / name).write_bytes((adapter / name).read_bytes())
    (tmp_path / "made" / "secura_base.json").write_text('{"model": "another", "fingerprint": "0"}')
    settings = EvalSettings(adapter=str(tmp_path / "made"), tasks=TASKS, out=tmp_path)
    with pytest.raises(BaseMismatchError, match="was made for another"):
        evaluate(settings, CONSOLE)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": "somewhere"}, "nothing to score"),
        ({"tasks": ("kindz",)}, "the nearest are kinds"),
        ({"tasks": TASKS, "count": 0}, "--count is 0"),
        ({"tasks": TASKS, "batch_size": 0}, "--batch-size is 0"),
        ({"tasks": TASKS, "seed": -1}, "--seed is -1"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_a_model_is_loaded(
    settings: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_run, "_ready_model", _never)
    with pytest.raises(ConfigError, match=says):
        evaluate(EvalSettings(**settings, out=tmp_path), CONSOLE)
    assert not list(tmp_path.iterdir())


def _never(*_: object) -> None:
    raise AssertionError("the model was loaded")


def test_a_task_that_the_harness_cannot_load_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(names: Sequence[str]) -> list[Any]:
        raise DataError(f"could not load the rows of {names[0]}")

    monkeypatch.setattr(eval_run, "harness_tasks", missing)
    monkeypatch.setattr(eval_run, "_ready_model", _never)
    with pytest.raises(DataError, match="the rows of boolq"):
        evaluate(EvalSettings(harness_tasks=("boolq",), out=tmp_path), CONSOLE)


def test_scores_that_are_there_are_not_overwritten(llama_folder: Path, tmp_path: Path) -> None:
    settings = EvalSettings(model=str(llama_folder), tasks=("kinds",), count=2, out=tmp_path)
    evaluate(settings, CONSOLE)
    with pytest.raises(ConfigError, match="holds scores already"):
        evaluate(settings, CONSOLE)


def test_without_a_folder_each_run_gets_one_of_its_own(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = EvalSettings(model=str(llama_folder), tasks=("kinds",), count=2)
    files = [evaluate(settings, CONSOLE).file for _ in range(2)]
    assert [file.parent.name for file in files] == [f"eval-{llama_folder.name}", f"eval-{llama_folder.name}-2"]


def _interrupted_at(task: str, score: Callable[..., Any]) -> Callable[..., Any]:
    def asked(model: Any, tokenizer: Any, asked_task: Any, *arguments: Any, **settings: Any) -> Any:
        if asked_task.name == task:
            raise KeyboardInterrupt
        return score(model, tokenizer, asked_task, *arguments, **settings)

    return asked


def test_ctrl_c_keeps_the_tasks_that_were_finished(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "score_task", _interrupted_at("homes", score_task))
    settings = EvalSettings(model=str(llama_folder), tasks=TASKS, count=3, out=tmp_path)
    with pytest.raises(SecuraError, match=r"stopped by Ctrl-C at task 2 of 2; 1 finished, their scores are in"):
        evaluate(settings, CONSOLE)
    stored = _stored(tmp_path)
    assert not stored["complete"]
    assert [task["task"] for task in stored["tasks"]] == ["kinds"]
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ConfigError, match="holds scores of another run"):
        evaluate(replace(settings, count=2), CONSOLE)
    monkeypatch.setattr(asking, "score_task", _interrupted_at("kinds", score_task))  # which is not asked again
    evaluate(settings, CONSOLE)
    monkeypatch.setattr(asking, "score_task", score_task)
    whole = _stored(tmp_path)
    evaluate(replace(settings, out=tmp_path / "fresh"), CONSOLE)
    assert whole["complete"]
    assert whole["tasks"] == _stored(tmp_path / "fresh")["tasks"]


def test_scores_of_an_adapter_that_was_trained_anew_are_not_gone_on_with(
    llama_folder: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    settings = EvalSettings(
        model=str(llama_folder), adapter=str(own), tasks=TASKS, count=3, out=tmp_path / "out", batch_size=2
    )
    monkeypatch.setattr(asking, "score_task", _interrupted_at("homes", score_task))
    with pytest.raises(SecuraError, match="1 finished"):
        evaluate(settings, CONSOLE)
    weights = load_file(own / "adapter_model.safetensors")
    save_file({name: 2 * each for name, each in weights.items()}, own / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="holds scores of another run"):
        evaluate(settings, CONSOLE)


def test_exported_tasks_need_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_run, "_ready_model", _never)
    names = export(EvalSettings(tasks=TASKS, count=3), tmp_path)
    assert names == ["secura_kinds", "secura_homes"]
    assert len((tmp_path / "secura_kinds.jsonl").read_text().splitlines()) == 3


def test_the_harnesss_scores_stand_beside_ours(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    (name,) = export(EvalSettings(tasks=("kinds",), count=4), tmp_path / "tasks")
    exported = partial(eval_run.harness_tasks, include=tmp_path / "tasks")
    monkeypatch.setattr(eval_run, "harness_tasks", exported)
    settings = EvalSettings(
        model=str(llama_folder), tasks=("kinds",), harness_tasks=(name,), count=4, out=tmp_path / "out"
    )
    result = evaluate(settings, CONSOLE)
    (theirs,) = _stored(tmp_path / "out")["lm_eval"]
    assert theirs["values"]["acc,none"] == result.scores[0].value
    assert theirs["per_item"]["acc,none"] == [each.score for each in result.scores[0].items]
    assert _stored(tmp_path / "out")["provenance"]["versions"]["lm_eval"]


def test_cut_prompts_and_truncated_answers_are_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    rows = [{"prompt": "z" * 100, "target": "blue"}, {"prompt": "sky?", "target": "grey"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "hues.yaml").write_text("name: hues\nmetric: exact_match\nrows: rows.jsonl\n")
    settings = EvalSettings(model=str(folder), tasks=(str(tmp_path / "hues.yaml"),), out=tmp_path / "out")
    notes = evaluate(settings, CONSOLE).notes
    assert "hues: 2 of 2 answers were cut at the limit of tokens" in notes
    assert "hues: 1 of 2 prompts were cut at the beginning to fit the context" in notes
