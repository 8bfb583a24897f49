import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_models import save_tiny_model
from transformers import AutoModelForCausalLM, TrainerCallback

from secura import SecuraConfig
from secura.adapters import measure_activity
from secura.anchors.bank import read_bank
from secura.errors import BaseMismatchError, ConfigError, TrainingError
from secura.experiments import anchors
from secura.experiments.anchors import AnchorSettings, make_anchors
from secura.experiments.run.prepare import PreparedRun, prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config

FEW = ["strategy.settings.texts=12", "strategy.settings.tokens=8", "strategy.settings.share=0.5", "retention.path=none"]
SMALL = ["training.steps=4", "training.batch_size=2", "training.save_every=2", "data.test_rows=4"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quiet() -> Console:
    return Console(file=io.StringIO())


def prepared(model: Path, rows: Path, out: Path, *more: str, method: str = "lora", **how: Any) -> PreparedRun[Any]:
    flags = {
        "model.path": str(model),
        "data.path": str(rows),
        "out": str(out),
        "method.name": method,
        "strategy.name": "own_text",
    }
    return prepare_run(load_config(None, [*SMALL, *FEW, *more], flags), **how)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["lora", "secura", "full"])
def test_a_run_is_held_to_a_bank_that_its_base_wrote(
    method: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    run = prepared(llama_folder, rows_file, tmp_path / "out", method=method)
    console = quiet()
    train_and_report(run, console)
    logged = lines(tmp_path / "out")
    assert [line["anchor_strength"] for line in logged[:1]] == [1.0]
    assert abs(logged[0]["anchor_kl"]) < 1e-4  # before the first step it is its base
    assert all(line["anchor_kl_budget"] == 0.02 for line in logged)
    assert "not used for training, the model moved" in console.file.getvalue()  # type: ignore[attr-defined]
    assert run.anchors is not None
    assert {text.kind for text in read_bank(run.anchors).texts} == {"plain"}


def test_real_rows_are_replayed_beside_the_bank(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text("".join(json.dumps({"prompt": f"sea {n}?", "target": "wide"}) + "\n" for n in range(6)))
    run = prepared(llama_folder, rows_file, tmp_path / "out", f"data.mix={{{old}: 0.25}}")
    texts = [run.tokenizer.decode(example.tokens) for example in run.task.examples]
    assert (sum("sky" in text for text in texts), sum("sea" in text for text in texts)) == (22, 7)
    assert any("replayed beside it 25% old.jsonl (7 rows of its 6, each up to 2 times)" in note for note in run.notes)
    train_and_report(run, quiet())
    logged = lines(tmp_path / "out")
    assert logged[-1]["anchor_kl"] > 0
    assert run.anchors == prepared(llama_folder, rows_file, tmp_path / "without").anchors


def test_a_selection_by_activation_reads_what_the_base_wrote(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    by_activation = "method.adapter.selection=activation"
    # A dry run writes no bank, and looks at one row in its place.
    assert prepared(llama_folder, rows_file, tmp_path / "dry", by_activation, method="secura", dry_run=True)
    run = prepared(llama_folder, rows_file, tmp_path / "out", by_activation, method="secura")
    assert run.anchors is not None
    bank = read_bank(run.anchors)
    config = run.model.peft_config["default"]
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    again = SecuraConfig(selection="activation")
    measure_activity(base, again, [bank.texts[index].tokens for index in bank.trained_on])
    assert config.activity.keys() == again.activity.keys()
    for name, found in again.activity.items():
        assert torch.equal(found.outputs, config.activity[name].outputs)


def test_with_own_answers_the_base_answers_prompts_that_are_trained_on_and_none_that_is_held_out(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    run = prepared(llama_folder, rows_file, tmp_path / "out", "strategy.settings.own_answers=true")
    assert run.anchors is not None
    prompts = {tuple(example.tokens[: example.learned_from]) for example in run.task.examples}
    answers = [text for text in read_bank(run.anchors).texts if text.kind == "continuation"]
    assert answers
    assert all(tuple(text.tokens[: text.written_from]) in prompts for text in answers)


def test_a_bank_is_written_once_and_mended_where_it_is_damaged(
    llama_folder: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(llama_folder, rows_file, tmp_path / "a").anchors
    assert first is not None
    teacher = first / "teacher.safetensors"
    whole = teacher.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(anchors, "write_texts", lambda *_, **__: pytest.fail("written again"))
        teacher.write_bytes(whole[:-7])
        assert prepared(llama_folder, rows_file, tmp_path / "b").anchors == first
        assert teacher.read_bytes() == whole
    (first / "texts.safetensors").write_bytes(b"cut")
    assert prepared(llama_folder, rows_file, tmp_path / "c").anchors == first
    assert read_bank(first).tokens > 0
    assert prepared(llama_folder, rows_file, tmp_path / "d", "training.seed=1").anchors == first
    assert prepared(llama_folder, rows_file, tmp_path / "e", "training.precision=bf16").anchors != first


def test_a_dry_run_writes_no_bank(llama_folder: Path, rows_file: Path, tmp_path: Path, cache: Path) -> None:
    assert prepared(llama_folder, rows_file, tmp_path / "out", dry_run=True).anchors is None
    assert not cache.exists()


def test_an_interrupted_run_resumes_to_the_same_adapter_and_budget(
    llama_folder: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_and_report(prepared(llama_folder, rows_file, tmp_path / "whole"), quiet())
    broken = prepared(llama_folder, rows_file, tmp_path / "out")
    with pytest.raises(TrainingError, match="at step 3"):
        train_and_report(broken, quiet(), [_BreakAt(3)])
    again = train_and_report(prepared(llama_folder, rows_file, tmp_path / "out", resume=True), quiet())
    expected, found = (load_file(result.saved / "adapter_model.safetensors") for result in (whole, again))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    without_memory = [[{**line, "memory_mb": 0} for line in lines(tmp_path / name)] for name in ("whole", "out")]
    assert without_memory[0] == without_memory[1]


class _BreakAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise TrainingError(f"broken at step {self.step}")


def test_a_bank_of_another_base_is_refused(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "model", seed=1)
    bank = tmp_path / "bank"
    make_anchors(AnchorSettings(model=str(other), out=bank, texts=4, tokens=6), quiet())
    with pytest.raises(BaseMismatchError, match=r"was written by .* with other weights than"):
        prepared(llama_folder, rows_file, tmp_path / "out", f"strategy.settings.bank={bank}")
    with pytest.raises(BaseMismatchError, match="with other weights than"):
        make_anchors(AnchorSettings(model=str(llama_folder), out=bank, texts=4, tokens=6), quiet())
    assert len(read_bank(bank).texts) == 4  # nothing was lost


def test_a_bank_of_the_users_is_used_and_its_damage_told_of(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    bank = tmp_path / "bank"
    settings = AnchorSettings(
        model=str(llama_folder), out=bank, prompts=str(rows_file), given=str(rows_file), texts=10, tokens=6
    )
    made = make_anchors(settings, quiet())
    assert {text.kind for text in made.texts} == {"plain", "continuation", "given"}
    setting = f"strategy.settings.bank={bank}"
    run = prepared(llama_folder, rows_file, tmp_path / "out", setting)
    assert run.anchors == bank
    teacher = bank / "teacher.safetensors"
    teacher.write_bytes(teacher.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"teacher cache .* is missing, damaged or cut short"):
        prepared(llama_folder, rows_file, tmp_path / "next", setting)
    assert make_anchors(settings, quiet()) == made  # writes the cache again
    assert prepared(llama_folder, rows_file, tmp_path / "next", setting).anchors == bank


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"texts": 1}, "texts is 1"), ({"tokens": 1}, "tokens is 1"), ({"seed": 1}, "a bank made with other settings")],
)
def test_what_cannot_be_written_there_is_refused(
    changed: dict[str, int], says: str, llama_folder: Path, tmp_path: Path
) -> None:
    plain: dict[str, Any] = {"model": str(llama_folder), "out": tmp_path / "bank", "texts": 4, "tokens": 6}
    make_anchors(AnchorSettings(**plain), quiet())
    with pytest.raises(ConfigError, match=says):
        make_anchors(AnchorSettings(**{**plain, **changed}), quiet())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ConfigError, match="holds no anchor bank"):
        make_anchors(AnchorSettings(**{**plain, "out": tmp_path / "full"}), quiet())
