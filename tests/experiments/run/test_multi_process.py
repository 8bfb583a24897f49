import io
import json
import os
import shutil
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import launched_processes
import pytest
import torch
from launched_processes import FSDP2, ZERO2, ZERO3
from oldest_versions import needs_a_shared_resume_on_a_cpu
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from secura.errors import ConfigError
from secura.experiments.methods.defaults import with_method_defaults
from secura.experiments.run import processes as process_checks
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.processes import check_processes
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.tasks.world import bundled_model_path
from secura.tasks.world.new_tasks import DEFAULT_TASK, NEW_TASKS

PROGRAM = Path(__file__).with_name("runs_in_processes.py")
RUNS: dict[str, list[str]] = {
    "secura": ["method.name=secura"],
    "folded": ["method.name=secura", "method.adapter.reference=moving", "method.fold_every=3"],
    "summed": [
        "method.name=cabr-lora",
        "method.fold_every=3",
        "training.learning_rate=0.01",
        "method.adapter.scale=plain",
    ],
    "cur-lora": ["method.name=cur-lora", "training.learning_rate=0.03", "method.adapter.scale=plain"],
    "lora": ["method.name=lora", "training.learning_rate=0.01"],
}
LAUNCHERS: dict[str, dict[str, str]] = {"ddp": {}, "fsdp2": FSDP2, "zero2": ZERO2, "zero3": ZERO3}
FOLDED = ("folded", "summed")
"""Runs that fold, which DeepSpeed cannot."""
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra deepspeed")
with_each_launcher = [
    pytest.param("ddp", marks=pytest.mark.ci),
    pytest.param("fsdp2", marks=pytest.mark.slow),
    *(pytest.param(name, marks=[pytest.mark.slow, needs_deepspeed]) for name in ("zero2", "zero3")),
]


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ten steps over 30 rows in batches of 8; three rows are held out, and the last batch of an epoch holds 3. A
    checkpoint is written within an epoch."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    questions = NEW_TASKS[DEFAULT_TASK].train_questions(30)
    path.write_text("".join(json.dumps({"prompt": each.prompt, "target": each.answer}) + "\n" for each in questions))
    small = ["training.steps=10", "training.batch_size=8", "training.save_every=3", "retention.per_family=1"]
    return [*small, f"data.path={path}", "data.test_share=0.1"]


@pytest.fixture(scope="module")
def alone(shared_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the runs, each carried out by one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, settings in RUNS.items():
        _carry_out_here([*shared_settings, *settings], folder / name)
    return folder


@pytest.fixture(scope="module", params=with_each_launcher)
def together(
    request: pytest.FixtureRequest, shared_settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folders of the same runs, each shared by two processes."""
    folder = tmp_path_factory.mktemp(request.param)
    names = [name for name in RUNS if _can(folder, name)]
    runs = [{"set": [*shared_settings, *RUNS[name]], "out": str(folder / name)} for name in names]
    _carry_out_together(runs, folder, LAUNCHERS[request.param])
    return folder


def _can(folder: Path, name: str) -> bool:
    return not (folder.name.startswith("zero") and name in FOLDED)


def _carry_out_here(settings: list[str], out: Path) -> None:
    train_and_report(prepare_run(load_config(None, settings, {"out": str(out)})), Console(file=io.StringIO()))


def _carry_out_together(runs: list[dict[str, Any]], folder: Path, launcher: dict[str, str]) -> None:
    # Once ZeRO-3 is on, transformers divides every model as it is loaded; `secura train` loads one.
    for part in [[each] for each in runs] if launcher == ZERO3 else [runs]:
        plan = folder / "runs.json"
        plan.write_text(json.dumps(part))
        ended = launched_processes.run([str(PROGRAM), str(plan)], launcher=launcher)
        assert [each.code for each in ended] == [0, 0], ended[0].errors + ended[1].errors


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_does(name: str, alone: Path, together: Path) -> None:
    if not _can(together, name):
        pytest.skip("DeepSpeed cannot fold")
    expected, found = _losses(alone / name), _losses(together / name)
    assert len(found) == 10
    assert found[-1] < 0.7 * found[0]
    # Half a batch is summed at a time, so sums round in another order, and ten steps amplify it.
    assert_close(found, expected, rtol=1e-4, atol=0)
    one, other = _adapter(alone / name), _adapter(together / name)
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        if tensor.is_floating_point():
            # Adam makes larger steps of the few gradients that are next to zero, so most of it is held by norm.
            assert_close(other[key], tensor, rtol=1e-2, atol=2e-3)
            assert (other[key] - tensor).norm() <= 1e-3 * tensor.norm()
        elif not key.endswith("seal"):  # indices of C and R, and fingerprints; a seal is of every last bit
            assert torch.equal(other[key], tensor)


@pytest.mark.parametrize("name", RUNS)
def test_a_shared_run_saves_one_adapter_that_one_process_loads(name: str, together: Path) -> None:
    if not _can(together, name):
        pytest.skip("DeepSpeed cannot fold")
    folder = together / name
    assert json.loads((folder / "sharded.json").read_text()) is together.name.startswith(("fsdp2", "zero3"))
    checkpoint = folder / "checkpoint-9"
    assert (checkpoint / "pytorch_model_fsdp.bin").exists() is together.name.startswith("fsdp2")
    assert (checkpoint / "global_step9").exists() is together.name.startswith("zero")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bundled_model_path()), folder / "adapter")
    with torch.no_grad():
        logits = loaded.eval()(torch.arange(7, 23)[None]).logits
    assert_close(load_file(folder / "logits.safetensors")["logits"], logits, rtol=1e-4, atol=1e-4)


def test_questions_are_asked_once_and_answered_as_by_one_process(alone: Path, together: Path) -> None:
    for name in filter(lambda name: _can(together, name), RUNS):
        expected = json.loads((alone / name / "retention.json").read_text())
        found = json.loads((together / name / "retention.json").read_text())
        assert found["retention"]["total"]["asked"] == expected["retention"]["total"]["asked"] == 13
        assert found["retention"]["total"] == expected["retention"]["total"]
        assert found["processes"] == 2
        assert expected["processes"] == 1
        assert found["trainable_weights"] == expected["trainable_weights"]
        for when in ("before", "after"):
            assert_close(
                found["new_task_nats_per_token"][when], expected["new_task_nats_per_token"][when], rtol=1e-3, atol=0
            )


@needs_a_shared_resume_on_a_cpu
def test_a_shared_run_resumes_from_its_checkpoint(
    shared_settings: list[str], together: Path, request: pytest.FixtureRequest
) -> None:
    launcher = LAUNCHERS[request.node.callspec.params["together"]]
    runs: list[dict[str, Any]] = []
    names = [name for name in ("secura", "folded", "summed", "lora") if _can(together, name)]
    for name in names:
        folder = together / f"{name} resumed"
        shutil.copytree(together / name, folder)
        for later in ("checkpoint-10", "adapter"):
            shutil.rmtree(folder / later)
        runs.append({"set": [*shared_settings, *RUNS[name]], "out": str(folder), "resume": True})
    _carry_out_together(runs, together, launcher)
    for name in names:
        assert _losses(together / f"{name} resumed") == _losses(together / name)
        expected, found = _adapter(together / name), _adapter(together / f"{name} resumed")
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("launcher", with_each_launcher)
def test_ctrl_c_in_one_process_stops_all_of_them_at_one_step(
    launcher: str, shared_settings: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    longer = [*shared_settings, "training.steps=400", "training.save_every=400", "retention.per_family=1"]
    flags = [part for setting in longer for part in ("--set", setting)]
    processes = launched_processes.start(
        ["-m", "secura", "train", "--out", str(out), *flags], launcher=LAUNCHERS[launcher]
    )
    until = time.monotonic() + 60
    while not (out / "log.jsonl").exists() or len(_losses(out)) < 3:
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(processes[1].pid, signal.SIGINT)
    ended = launched_processes.wait(processes)
    assert [each.code for each in ended] == [1, 1]
    (saved,) = out.glob("checkpoint-*")
    assert f"saved in {saved}" in ended[0].errors
    assert "--resume" in ended[0].errors
    assert ended[1].errors == ""
    assert len(_losses(out)) == int(saved.name.removeprefix("checkpoint-")) < 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "launcher", "says"),
    [
        (["train", "--set", "training.batch_size=3"], {}, "batch_size is 3, which 2 processes cannot share evenly"),
        (["train", "--data", "/no/such/rows.jsonl"], {}, "/no/such/rows.jsonl"),
        (["train", "--method", "lora", "--set", "method.adapter.r=4000"], {}, "r is 4000"),
        (["train", "--method", "dora"], FSDP2, "method dora needs each weight whole"),
        (["train", "--no-such-option"], {}, "No such option"),
        pytest.param(
            *(["train"], {**ZERO3, "ACCELERATE_USE_CPU": "true"}, "ACCELERATE_USE_CPU is true"), marks=needs_deepspeed
        ),
        (["sequence", "run", "seq.yaml"], {}, "secura sequence runs in one process, but 2 were launched"),
    ],
)
def test_a_refusal_is_said_once_and_ends_every_process_with_3(
    arguments: list[str], launcher: dict[str, str], says: str
) -> None:
    ended = launched_processes.run(["-m", "secura", *arguments], launcher=launcher)
    assert [each.code for each in ended] == [3, 3]
    assert says in ended[0].errors
    assert ended[0].errors.count("\n") == 1
    assert ended[1].errors == ""
    assert says not in ended[1].output


@pytest.mark.parametrize("every", ["2", "task"])
def test_folds_under_deepspeed_are_refused(every: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_checks, "process_count", lambda: 2)
    monkeypatch.setattr(process_checks, "sharding", lambda: "zero2")
    monkeypatch.setattr(process_checks, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=f"fold_every is {every}, but DeepSpeed keeps a copy of its own"):
        check_processes(load_config(None, [f"method.fold_every={every}"], {}))


@pytest.mark.slow
def test_a_failure_of_one_process_hangs_none(tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    program.write_text(
        "import sys\n"
        "from secura.cli import app\n"
        "from secura.training import processes, trainer\n"
        "make = trainer.PadToLongest.__call__\n"
        "calls = []\n"
        "def once_more(self, examples):\n"
        "    calls.append(1)\n"
        "    if processes.process_index() == 1 and len(calls) > 3:\n"
        "        raise OSError('the disk of this machine is gone')\n"
        "    return make(self, examples)\n"
        "trainer.PadToLongest.__call__ = once_more\n"
        "sys.exit(app.run(sys.argv[1:]))\n"
    )
    settings = ["training.steps=200", "training.batch_size=2", "retention.per_family=1", "data.test_rows=2"]
    flags = [part for setting in settings for part in ("--set", setting)]
    ended = launched_processes.run([str(program), "train", "--out", str(tmp_path / "out"), *flags])
    assert [each.code for each in ended] == [1, 1]
    assert "process 1: OSError: the disk of this machine is gone" in ended[1].errors


@pytest.mark.parametrize(("rows", "near"), [(3, "2 or 4"), (1, "2")])
def test_a_batch_that_two_processes_cannot_share_is_refused(
    rows: int, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_checks, "process_count", lambda: 2)
    config = load_config(None, [f"training.batch_size={rows}"], {})
    with pytest.raises(ConfigError, match=rf"batch_size is {rows}, which 2 processes .* set it to {near}, or"):
        check_processes(config)
    check_processes(load_config(None, ["training.batch_size=4"], {}))
    with pytest.raises(ConfigError, match=r"strategy\.name is lwf, which several processes cannot share"):
        check_processes(load_config(None, ["strategy.name=lwf"], {}))


@pytest.mark.parametrize(
    ("launcher", "settings", "says"),
    [
        ({"FSDP_VERSION": "1"}, [], "set fsdp_version to 2"),
        ({"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, [], "set it to FULL_STATE_DICT"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, [], "fsdp_cpu_ram_efficient_loading is true"),
        ({}, ["method.name=osf"], "method osf needs each weight whole, and FSDP2 divides them"),
    ],
)
def test_what_fsdp2_cannot_do_is_refused(
    launcher: dict[str, str], settings: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_checks, "process_count", lambda: 2)
    for name, value in {**FSDP2, **launcher}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        check_processes(load_config(None, settings, {}))


def test_zero3_refuses_what_reads_texts_with_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_checks, "process_count", lambda: 2)
    monkeypatch.setattr(process_checks, "find_spec", lambda name: name)
    for name, value in ZERO3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    config = load_config(None, ["method.name=secura", "method.adapter.selection=activation"], {})
    with pytest.raises(ConfigError, match=r"selection is activation, .* set it to least, or use FSDP2"):
        check_processes(with_method_defaults(config))
    check_processes(with_method_defaults(load_config(None, ["method.name=secura"], {})))


@pytest.mark.slow
def test_own_text_is_shared_with_one_budget_whether_weights_are_divided_or_not(
    shared_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    own = ["method.name=lora", "strategy.name=own_text", "strategy.settings.texts=20", "strategy.settings.tokens=16"]
    logs = []
    for name in ("ddp", "fsdp2"):
        (tmp_path / name).mkdir()
        run = {"set": [*shared_settings, *own], "out": str(tmp_path / name / "run")}
        _carry_out_together([run], tmp_path / name, LAUNCHERS[name])
        lines = (tmp_path / name / "run" / "log.jsonl").read_text().splitlines()
        logs.append([[json.loads(line)[key] for line in lines] for key in ("anchor_kl", "anchor_strength", "loss")])
    assert logs[0][0][-1] > 0
    assert logs[0][1][-1] != 1.0
    for whole, divided in zip(*logs, strict=True):
        assert_close(divided, whole, rtol=1e-3, atol=1e-5)  # sums round in another order, and steps amplify it


@needs_a_shared_resume_on_a_cpu
@pytest.mark.parametrize(
    ("method", "launcher"),
    [
        pytest.param(
            method, launcher, marks=pytest.mark.ci if (method, launcher) == ("lora", "ddp") else pytest.mark.slow
        )
        for method in ("lora", "secura", "full")
        for launcher in ("ddp", "fsdp2")
    ],
)
def test_a_share_is_kept_by_both_processes_alike_and_certified_once(
    method: str, launcher: str, shared_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    keep = [
        f"method.name={method}",
        "training.learning_rate=" + {"lora": "2e-2", "secura": "0.3", "full": "2e-3"}[method],
        "training.steps=28",
        "training.save_every=26",
        "retention.keep=0.8",
        "retention.per_family=4",
        "strategy.settings.texts=20",
        "strategy.settings.tokens=16",
    ]
    out = tmp_path / "run"
    run: dict[str, Any] = {"set": [*shared_settings, *keep], "out": str(out)}
    _carry_out_together([run], tmp_path, LAUNCHERS[launcher])
    first, second = (json.loads((out / f"process-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    stored = json.loads((out / "retention.json").read_text())
    assert stored["scale"] == first["scale"]
    assert stored["certificate"]["outcome"] == first["certificate"]["outcome"]
    assert stored["certificate"]["items"] == round(0.6 * 52)
    budgets = [json.loads(line)["anchor_kl_budget"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert budgets[0] == 0.02 != budgets[-1]  # steered at step 25
    # Gone on with after the look, it ends in the same bits, choice and certificate.
    shutil.rmtree(out / "checkpoint-28")
    _carry_out_together([{**run, "resume": True}], tmp_path, LAUNCHERS[launcher])
    again = json.loads((out / "process-1.json").read_text())
    assert again == first
