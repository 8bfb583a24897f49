import io
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from secura.adapters import SecuraConfig, measure_activity
from secura.anchors.bank import read_bank
from secura.errors import BaseMismatchError, ConfigError, DataError, InputError, TrainingError
from secura.experiments.methods.adapters import adapter_config
from secura.experiments.models.pair import model_pair
from secura.experiments.run.learn import first_batch
from secura.experiments.run.prepare import PreparedRun, prepare_run
from secura.experiments.run.train import RunResult, train_and_report
from secura.experiments.settings.layers import load_config
from secura.experiments.settings.names import METHOD_NAMES
from secura.experiments.settings.run import RunConfig
from secura.one_writer import one_writer
from secura.training.examples import IGNORED

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k.train.jsonl"


def _config(model: Path, data: Path, out: Path, *more: str, method: str = "lora") -> RunConfig:
    small = [
        "training.steps=4",
        "training.batch_size=2",
        "training.save_every=2",
        "data.test_rows=4",
        "retention.path=none",
    ]
    flags = {"model.path": str(model), "data.path": str(data), "out": str(out), "method.name": method}
    if method == "corda":
        flags["method.calibration"] = str(data)
    return load_config(None, [*small, *more], flags)


def _run(
    config: RunConfig, *callbacks: TrainerCallback, resume: bool = False
) -> tuple[PreparedRun[RunConfig], RunResult]:
    prepared = prepare_run(config, resume=resume)
    return prepared, train_and_report(prepared, Console(file=io.StringIO()), callbacks)


def _logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(torch.arange(7, 27)[None]).logits


ADAPTERS = [name for name in METHOD_NAMES if name not in ("full", "corda")]
ON_ARCHITECTURES = [
    pytest.param(method, architecture, marks=() if (row + column) % len(ARCHITECTURES) == 0 else pytest.mark.slow)
    for row, method in enumerate(ADAPTERS)
    for column, architecture in enumerate(ARCHITECTURES)
]


@pytest.mark.parametrize(("method", "architecture"), ON_ARCHITECTURES)
def test_an_adapter_reloads_to_the_bit(architecture: str, method: str, rows_file: Path, tmp_path: Path) -> None:
    if (method, architecture) == ("osf", "gpt2"):
        pytest.skip("PEFT's OSF does not adapt Conv1D")
    folder = save_tiny_model(tmp_path / "model", architecture, chat=architecture == "qwen2")
    prepared, result = _run(_config(folder, rows_file, tmp_path / "out", method=method))
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = _logits(base)
    reloaded = PeftModel.from_pretrained(base, str(result.saved))
    assert torch.equal(_logits(reloaded), _logits(prepared.model))
    assert not torch.equal(_logits(reloaded), before)
    assert len(AutoTokenizer.from_pretrained(result.saved)) == len(prepared.tokenizer)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(one, marks=() if one == "llama" else pytest.mark.slow) for one in ARCHITECTURES],
)
def test_corda_is_saved_as_a_lora_of_twice_the_rank_that_fits_the_base_as_it_was(
    architecture: str, rows_file: Path, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "model", architecture)
    prepared, result = _run(_config(folder, rows_file, tmp_path / "out", method="corda"))
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = _logits(base)
    reloaded = PeftModel.from_pretrained(base, str(result.saved))
    torch.testing.assert_close(_logits(reloaded), _logits(prepared.model))
    assert not torch.allclose(_logits(reloaded), before)
    saved = reloaded.peft_config["default"]
    assert (saved.r, saved.init_lora_weights) == (16, True)
    with pytest.raises(ConfigError, match="continue it with the method lora"):
        prepare_run(_config(folder, rows_file, tmp_path / "next", f"method.start_from={result.saved}", method="corda"))


def test_corda_needs_texts_of_what_must_be_kept(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    config = _config(llama_folder, rows_file, tmp_path / "out", "method.name=corda", method="corda")
    method = config.method.model_copy(update={"calibration": None})
    with pytest.raises(ConfigError, match=r"name a file with method\.calibration"):
        prepare_run(config.model_copy(update={"method": method}))
    with pytest.raises(ConfigError, match=r"method\.calibration is for corda, .* and method\.name is lora"):
        prepare_run(_config(llama_folder, rows_file, tmp_path / "out", f"method.calibration={rows_file}"))


def _chosen_rows(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: one.tolist() for name, one in model.named_buffers() if "secura_rows" in name}


def test_a_selection_by_activation_reads_what_the_base_writes_or_a_file_of_what_must_be_kept(
    llama_folder: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    config = _config(llama_folder, rows_file, tmp_path / "out", method="secura")
    own = prepare_run(config)
    assert own.anchors is None  # it is not held to them
    (bank,) = (path for path in (tmp_path / "cache" / "anchors").iterdir() if path.is_dir())
    written = read_bank(bank)
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    adapter = adapter_config("secura", {"selection": "activation"})
    assert isinstance(adapter, SecuraConfig)
    measure_activity(base, adapter, [written.texts[index].tokens for index in written.trained_on])
    of_own = _chosen_rows(own.model)
    assert of_own == _chosen_rows(get_peft_model(base, adapter))
    method = config.method.model_copy(update={"calibration": str(rows_file)})
    named = prepare_run(config.model_copy(update={"method": method}))
    least = "method.adapter.selection=least"
    plain = prepare_run(_config(llama_folder, rows_file, tmp_path / "plain", least, method="secura"))
    of_file, of_least = _chosen_rows(named.model), _chosen_rows(plain.model)
    assert of_own.keys() == of_file.keys() == of_least.keys()
    assert of_own != of_file != of_least != of_own


def test_full_training_saves_a_model_that_reloads_to_the_bit(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    prepared, result = _run(_config(llama_folder, rows_file, tmp_path / "out", method="full"))
    reloaded = AutoModelForCausalLM.from_pretrained(result.saved)
    assert torch.equal(_logits(reloaded), _logits(prepared.model))
    assert reloaded.config.use_cache
    assert prepared.trainable_weights == prepared.base_weights


def test_the_report_holds_scores_flips_settings_and_versions(
    llama_folder: Path, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    retain = f"retention.path={retain_file}"
    _, result = _run(_config(llama_folder, rows_file, tmp_path / "out", retain))
    report = json.loads(result.report.read_text())
    assert report["retention"]["total"]["asked"] == 6
    assert [each["family"] for each in report["retention"]["families"]] == ["family 0", "family 1"]
    assert report["new_task"]["total"]["asked"] == 2
    losses = report["new_task_nats_per_token"]
    assert 0 < losses["after"] < losses["before"]
    assert report["config"]["training"]["steps"] == 4
    assert report["provenance"]["versions"]["peft"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "grad_norm", "learning_rate", "memory_mb"} <= lines[0].keys()


def test_two_runs_of_one_seed_are_the_same_and_another_seed_is_not(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _, result = _run(_config(llama_folder, rows_file, tmp_path / name, f"training.seed={seed}"))
        weights.append(load_file(result.saved / "adapter_model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize("every", [2, "task"])
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(one, marks=() if one == "secura" else pytest.mark.slow)
        for one in ("secura", "secura-paper", "cabr-lora", "cur-lora", "bounded-lora")
    ],
)
def test_a_folded_adapter_reloads_to_the_bit_too(
    method: str, every: int | str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    config = _config(llama_folder, rows_file, tmp_path / "out", f"method.fold_every={every}", method=method)
    prepared, result = _run(config)
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    before = _logits(base)
    reloaded = PeftModel.from_pretrained(base, str(result.saved))
    assert torch.equal(_logits(reloaded), _logits(prepared.model))
    assert not torch.equal(_logits(reloaded), before)


class _InterruptAt(TrainerCallback):
    """Presses Ctrl-C during a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "method",
    [pytest.param(one, marks=() if one in ("secura", "full") else pytest.mark.slow) for one in METHOD_NAMES],
)
def test_ctrl_c_saves_and_the_resumed_run_ends_as_an_uninterrupted_one(
    method: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    whole = _config(llama_folder, rows_file, tmp_path / "whole", "training.save_every=100", method=method)
    _, straight = _run(whole)
    config = whole.model_copy(update={"out": str(tmp_path / "broken")})
    with pytest.raises(TrainingError, match=r"after step 3 of 4, saved in .*checkpoint-3.*--resume --out"):
        _run(config, _InterruptAt(2))
    assert not (tmp_path / "broken" / "adapter").exists()
    prepared, resumed = _run(config, resume=True)
    assert prepared.resume_from == tmp_path / "broken" / "checkpoint-3"
    (weights,) = straight.saved.glob("*.safetensors")
    expected, found = load_file(weights), load_file(resumed.saved / weights.name)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines = (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "strategy", ["kl_anchor", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lwf", "ilora"))]
)
def test_a_strategy_changes_a_run_and_resumes_with_it(
    strategy: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    rate, chosen = "training.learning_rate=0.05", f"strategy.name={strategy}"
    _, plain = _run(_config(llama_folder, rows_file, tmp_path / "plain", rate))
    whole = _config(llama_folder, rows_file, tmp_path / "whole", rate, chosen)
    _, straight = _run(whole)
    config = whole.model_copy(update={"out": str(tmp_path / "broken")})
    with pytest.raises(TrainingError, match="after step 3 of 4"):
        _run(config, _InterruptAt(2))
    _, resumed = _run(config, resume=True)
    files = [each.saved / "adapter_model.safetensors" for each in (plain, straight, resumed)]
    without, expected, found = map(load_file, files)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not all(torch.equal(expected[name], without[name]) for name in expected)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["strategy.name=replay"], "a run learns one; use own_text, kl_anchor or lwf"),
        (["strategy.name=ewc"], "a run learns one; use own_text, kl_anchor or lwf"),
        (["strategy.name=o_lora"], "a run learns one; use own_text, kl_anchor or lwf"),
        (["strategy.name=kl_anchor", "strategy.settings.strenght=2"], "the nearest is strategy.settings.strength"),
        (["strategy.name=own_text", "strategy.settings.share=2"], "share is 2, but must be above 0 and at most 1"),
        (["strategy.name=own_text", "strategy.settings.bank=nowhere"], "nowhere holds no anchor bank"),
        (["strategy.settings.strength=2"], "sequential has no settings"),
        (["strategy.name=kl"], r"unknown strategy 'kl'; the nearest is"),
    ],
)
def test_a_strategy_that_one_run_cannot_use_is_refused(
    settings: list[str], says: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        prepare_run(_config(llama_folder, rows_file, tmp_path / "out", *settings))
    with pytest.raises(ConfigError, match="method full has none; use lwf"):
        prepare_run(_config(llama_folder, rows_file, tmp_path / "out", "strategy.name=kl_anchor", method="full"))
    live = ["strategy.name=own_text", "strategy.settings.live_teacher=true"]
    with pytest.raises(ConfigError, match="live_teacher needs an adapter that leaves the base"):
        prepare_run(_config(llama_folder, rows_file, tmp_path / "out", *live, method="full"))


class _CountEnds(TrainerCallback):
    """Stands in for a fold at the end of a task."""

    def __init__(self) -> None:
        self.ends = 0

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.ends += 1


def test_resuming_a_finished_run_trains_no_further_step(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    count = _CountEnds()
    config = _config(llama_folder, rows_file, tmp_path / "out")
    _, first = _run(config, count)
    expected = load_file(first.saved / "adapter_model.safetensors")
    _, again = _run(config, count, resume=True)
    found = load_file(again.saved / "adapter_model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert count.ends == 2  # what is due at the end is due in both


def test_a_run_is_not_resumed_with_a_model_whose_weights_were_replaced(rows_file: Path, tmp_path: Path) -> None:
    config = _config(save_tiny_model(tmp_path / "model"), rows_file, tmp_path / "out")
    _run(config)
    save_tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(BaseMismatchError, match="with other weights"):
        prepare_run(config, resume=True)


def test_a_resumed_run_must_have_the_same_settings(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    _run(_config(llama_folder, rows_file, tmp_path / "out"))
    changed = _config(llama_folder, rows_file, tmp_path / "out", "training.seed=7")
    with pytest.raises(ConfigError, match=r"training\.seed was 0, now 7"):
        prepare_run(changed, resume=True)
    with pytest.raises(ConfigError, match="not empty; add --resume"):
        prepare_run(changed)
    with pytest.raises(ConfigError, match="no run to resume"):
        prepare_run(changed.model_copy(update={"out": str(tmp_path / "other")}), resume=True)


def test_a_resumed_run_is_compared_with_its_checkpoint_and_not_with_a_file_that_can_be_edited(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _run(_config(llama_folder, rows_file, out, "training.learning_rate=0.01"))
    settings = out / "config.yaml"
    settings.write_text(settings.read_text().replace("learning_rate: 0.01", "learning_rate: 0.5"))
    (out / "secura_run.json").unlink()  # nor with what lies beside it
    with pytest.raises(ConfigError, match=r"checkpoint-2 cannot .* training\.learning_rate was 0\.01, now 0\.5"):
        prepare_run(load_config(str(settings)), resume=True)


def test_a_run_is_not_resumed_with_other_rows(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = rows_file.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines))
    config = _config(llama_folder, rows, tmp_path / "out")
    _run(config)
    rows.write_text("".join(lines[:12]))
    with pytest.raises(ConfigError, match=r"the rows of rows.jsonl are not those that .*out"):
        prepare_run(config, resume=True)


def test_two_runs_that_begin_together_do_not_mix(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    config = _config(llama_folder, rows_file, tmp_path / "out")
    first, second = prepare_run(config), prepare_run(config)
    console = Console(file=io.StringIO())
    with one_writer(tmp_path / "out"), pytest.raises(ConfigError, match="another process is writing into"):
        train_and_report(first, console)
    train_and_report(first, console)
    with pytest.raises(ConfigError, match="is not empty"):
        train_and_report(second, console)
    first, second = prepare_run(config, resume=True), prepare_run(config, resume=True)
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    with pytest.raises(ConfigError, match="another process has continued"):
        train_and_report(second, console)


class _BreakAt(TrainerCallback):
    """Makes the loss of the next step NaN."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == self.step:
            assert model is not None
            weight = next(weight for weight in model.parameters() if weight.requires_grad)
            weight.data.fill_(float("nan"))


@pytest.mark.parametrize(("step", "says"), [(3, "last good checkpoint is .*checkpoint-2"), (1, "no checkpoint")])
def test_a_nan_loss_stops_at_once_and_leaves_the_last_good_checkpoint(
    step: int, says: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=f"step {step + 1}.*{says}.*lower learning rate"):
        _run(_config(llama_folder, rows_file, tmp_path / "out"), _BreakAt(step))
    assert not (tmp_path / "out" / "adapter").exists()
    assert not (tmp_path / "out" / f"checkpoint-{step + 1}").exists()


def test_the_first_batch_is_the_one_the_first_step_sees(
    llama_folder: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_run(_config(llama_folder, rows_file, tmp_path / "out"))
    shown = first_batch(prepared)
    seen = []
    forward = prepared.model.forward

    def spy(*args, **kwargs):
        if kwargs.get("labels") is not None:
            seen.append(kwargs["labels"])
        return forward(*args, **kwargs)

    monkeypatch.setattr(prepared.model, "forward", spy)
    train_and_report(prepared, Console(file=io.StringIO()))
    labels = [[token for token in row if token != IGNORED] for row in seen[0].tolist()]
    assert [example.tokens[example.learned_from :] for example in shown] == labels


def test_a_run_without_a_folder_gets_a_new_one_each_time(
    llama_folder: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = _config(llama_folder, rows_file, tmp_path).model_copy(update={"out": None})
    for name in ("lora-rows", "lora-rows-2"):
        prepared, _ = _run(config)
        assert prepared.folder == Path("runs") / name
    with pytest.raises(ConfigError, match="--resume needs"):
        prepare_run(config, resume=True)


def test_checks_alone_write_nothing(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    first_batch(prepare_run(_config(llama_folder, rows_file, tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_training_goes_on_from_an_adapter_made_for_this_model_and_from_no_other(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    _, first = _run(_config(llama_folder, rows_file, tmp_path / "first"))
    start = f"method.start_from={first.saved}"
    prepared = prepare_run(_config(llama_folder, rows_file, tmp_path / "second", start))
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    assert torch.equal(_logits(prepared.model), _logits(PeftModel.from_pretrained(base, str(first.saved))))
    assert prepared.trainable_weights > 0
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(BaseMismatchError, match=r"was made for .* with other weights"):
        prepare_run(_config(other, rows_file, tmp_path / "third", start))
    (first.saved / "secura_base.json").unlink()
    with pytest.raises(BaseMismatchError, match="was made for"):
        prepare_run(_config(other, rows_file, tmp_path / "third", start))
    for method in ("dora", "mica"):
        with pytest.raises(ConfigError, match=f"cannot be {method}"):
            prepare_run(_config(llama_folder, rows_file, tmp_path / "third", start, method=method))


@pytest.mark.ci
@pytest.mark.parametrize("key", ["lm_head.weight", "model.layers.0.self_attn.q_proj.base_layer.weight"])
@pytest.mark.parametrize(("method", "says"), [("lora", "changes weights of the base itself"), ("secura", "its own")])
def test_training_does_not_go_on_from_an_adapter_that_holds_weights_of_the_base(
    method: str, says: str, key: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    _, first = _run(_config(llama_folder, rows_file, tmp_path / "first", method=method))
    weights = first.saved / "adapter_model.safetensors"
    own = AutoModelForCausalLM.from_pretrained(llama_folder).state_dict()[key.replace(".base_layer", "")]
    save_file({**load_file(weights), f"base_model.model.{key}": own + 1}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=says):
        prepare_run(
            _config(llama_folder, rows_file, tmp_path / "second", f"method.start_from={first.saved}", method=method)
        )
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["method.adapter.r=33"], "r is 33, but layer .*q_proj is 32×32; r is at most 32"),
        (["method.adapter.rr=3"], "unknown setting method.adapter.rr; the nearest is method.adapter.r"),
        (["method.adapter.r=0"], "method.adapter"),
        (["method.adapter.target_modules=[nope]"], "this model.*q_proj|layers of this model are.*q_proj"),
        (["method.fold_every=2"], "cannot fold"),
        (["data.max_length=65"], "reads 64 tokens at most"),
        (["retention.min_retention=0.5"], "leave out --retain none"),
        (["method.start_from=/no/such/adapter"], "no adapter there"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_before_training(
    settings: list[str], says: str, llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, ValueError), match=says) as raised:
        prepare_run(_config(llama_folder, rows_file, tmp_path / "out", *settings))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model_is_refused(rows_file: Path, llama_folder: Path, tmp_path: Path) -> None:
    for folder, says in (
        (tmp_path / "missing", "no such folder"),
        (rows_file.parent, "holds no config.json"),
        (rows_file, "is a file"),
    ):
        with pytest.raises(ConfigError, match=says):
            prepare_run(_config(folder, rows_file, tmp_path / "out"))
    _, result = _run(_config(llama_folder, rows_file, tmp_path / "out"))
    with pytest.raises(ConfigError, match="holds an adapter, not a model"):
        prepare_run(_config(result.saved, rows_file, tmp_path / "again"))


def test_a_run_of_one_step_changes_the_model(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    _run(_config(llama_folder, rows_file, tmp_path / "out", "training.steps=1"))
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert line["learning_rate"] > 0
    trained = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert any(value.any() for name, value in trained.items() if "lora_B" in name)


def test_an_adapter_trained_in_bfloat16_is_of_the_base_that_is_stored_in_float32(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    _, result = _run(_config(llama_folder, rows_file, tmp_path / "out", "model.dtype=bfloat16", method="secura"))
    pair = model_pair(str(llama_folder), str(result.saved))
    with pair.tuned() as ready:
        assert ready.model.dtype == torch.float32
    assert pair.notes == []
    start = f"method.start_from={result.saved}"
    prepare_run(_config(llama_folder, rows_file, tmp_path / "next", start, method="secura"))


def test_a_model_of_ones_own_is_asked_everyday_questions_and_open_prompts_unless_told_otherwise(
    llama_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    few = "retention.per_family=2"
    run, result = _run(_config(llama_folder, rows_file, tmp_path / "asked", "retention.path=null", few))
    assert len(result.retention.families) > 12
    assert {item.family for item in run.retention} == set(result.retention.families)
    assert [len(result.changed), len(run.prompts)] == [10, 10]
    stored = json.loads(result.report.read_text())["open_answers"]
    assert {answer["prompt"] for answer in stored} == set(run.prompts)
    assert [answer["change"] for answer in stored] == sorted((answer["change"] for answer in stored), reverse=True)
    _, result = _run(_config(llama_folder, rows_file, tmp_path / "quiet", few))
    assert result.retention.total.asked == 0
    assert result.changed == []


def test_long_rows_are_refused_dropped_or_truncated(llama_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    long = {"prompt": "xyz " * 60, "target": "blue"}
    rows = [*({"prompt": f"sky {number}?", "target": "blue"} for number in range(6)), long]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = "data.test_share=0.0"
    with pytest.raises(DataError, match="1 of 7 rows are longer than the context of 64 tokens"):
        prepare_run(_config(llama_folder, path, tmp_path / "out", share))
    for choice, count in (("drop", 6), ("truncate", 7)):
        prepared = prepare_run(_config(llama_folder, path, tmp_path / "out", share, f"data.too_long={choice}"))
        assert len(prepared.task.examples) == count
        assert any("1 of 7 rows" in note for note in prepared.notes)


def test_plain_text_is_learned_and_scored_by_its_loss(llama_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"the colour of sky {n}"}) + "\n" for n in range(20)))
    _, result = _run(_config(llama_folder, path, tmp_path / "out"))
    assert result.new_task.total.asked == 0
    assert result.new_task_loss.before is not None
    assert result.new_task_loss.after is not None
    assert result.new_task_loss.after < result.new_task_loss.before


@pytest.mark.skipif(not GSM8K.exists(), reason="needs the shared evaluation data beside the repository")
def test_a_real_data_set_runs_from_end_to_end(llama_folder: Path, tmp_path: Path) -> None:
    config = _config(llama_folder, GSM8K, tmp_path / "out", "data.too_long=truncate")
    _, result = _run(config)
    assert result.report.exists()


@pytest.mark.parametrize(("has_bfloat16", "resolved"), [(True, "bf16"), (False, "as-stored")])
def test_precision_auto_is_what_the_processor_computes_fast_and_bf16_where_it_is_slow_is_said(
    llama_folder: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_bfloat16: bool,
    resolved: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bfloat16}, raising=False)
    auto = prepare_run(_config(llama_folder, rows_file, tmp_path / "auto", "training.precision=auto"), dry_run=True)
    assert auto.config.training.precision == resolved
    told = prepare_run(_config(llama_folder, rows_file, tmp_path / "told", "training.precision=bf16"), dry_run=True)
    assert any("no instructions for bfloat16" in note for note in told.notes) is not has_bfloat16
