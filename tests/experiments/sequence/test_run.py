import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from secura import ConfigError, InputError
from secura.anchors.bank import read_bank
from secura.experiments.run.folder import check_kind
from secura.experiments.sequence.bisect import bisect_family
from secura.experiments.sequence.matrix import QuestionGroup, SequenceScores, read_matrix, write_matrix
from secura.experiments.sequence.opened import open_sequence
from secura.experiments.sequence.run import prepare_sequence, run_sequence
from secura.experiments.sequence.stages import load_stage, stage_folder
from secura.experiments.sequence.undo import undo_task
from secura.experiments.settings.layers import config_as_yaml, load_config_of
from secura.experiments.settings.run import RunConfig
from secura.experiments.settings.sequence import SequenceConfig
from secura.experiments.settings.task_order import ordered_tasks
from secura.tasks.world import NEW_TASKS, SEQUENCE, bundled_model_path, load_bundled_tokenizer
from secura.whole_files import write_text

pytestmark = pytest.mark.ci

FEW = [
    "tasks=[different_homes, two_steps, pair_in_short]",
    "training.steps=3",
    "training.save_every=2",
    "training.batch_size=4",
    "data.test_rows=6",
    "data.train_rows=40",
    "retention.per_family=2",
]


OWN_TEXT = [
    "strategy.name=own_text",
    "strategy.settings.texts=8",
    "strategy.settings.tokens=12",
    "strategy.settings.task_texts=6",
]

SLOW_SETTINGS = [
    pytest.param(setting, marks=pytest.mark.slow)
    for setting in (
        ["method.name=secura", "method.adapter.reference=moving"],
        ["method.name=secura-paper"],
        ["method.name=lora", "strategy.name=ewc", "strategy.settings.fisher_examples=10"],
        ["method.name=lora", "strategy.name=ilora"],
        ["method.name=bounded-lora", "strategy.name=lwf"],
        [
            "method.name=bounded-lora",
            "strategy.name=ewc",
            "strategy.settings.protects=effective_weight",
            "strategy.settings.fisher_examples=10",
        ],
        ["method.name=dora", "strategy.name=kl_anchor"],
        ["method.name=lora", "method.boundary=anew", "strategy.name=o_lora"],
        ["method.name=full", "strategy.name=replay"],
        ["method.name=osf"],
        ["method.name=lora", *OWN_TEXT],
        ["method.name=secura", *OWN_TEXT],
        ["method.name=lora", "method.boundary=anew", *OWN_TEXT],
        ["method.name=full", *OWN_TEXT],
    )
]


def config(out: Path, *more: str) -> SequenceConfig:
    return load_config_of(SequenceConfig, None, [*FEW, f"out={out}", *more])


def learn(out: Path, *more: str) -> SequenceScores:
    return run_sequence(prepare_sequence(config(out, *more)), Console(file=io.StringIO()), lambda *_: None)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def learned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sequence") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECURA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        learn(out)
    return out


@pytest.fixture
def learned(learned_once: Path, tmp_path: Path) -> Path:
    """A folder of the few tasks, learned with the defaults, to do anything to."""
    shutil.copytree(learned_once, tmp_path / "out")
    return tmp_path / "out"


def adapter(out: Path) -> dict[str, Any]:
    return load_file(next((out / "adapter").glob("*.safetensors")))


def test_every_stage_is_scored_on_every_task_and_on_knowledge(learned: Path) -> None:
    matrix = open_sequence(learned).matrix
    assert sorted(matrix.cells) == [0, 1, 2, 3]
    assert {group.name for group in matrix.cells[0] if group.kind == "task"} == {
        "different_homes",
        "two_steps",
        "pair_in_short",
    }
    assert all(cells.keys() == matrix.cells[0].keys() for cells in matrix.cells.values())
    assert matrix.knowledge(0) == 1.0


def test_tasks_to_come_are_left_out_where_they_are_not_wanted(tmp_path: Path) -> None:
    matrix = learn(tmp_path / "out", "score_unseen=false", "tasks=[different_homes, two_steps]", "method.name=lora")
    assert QuestionGroup("task", "two_steps") not in matrix.cells[1]
    assert QuestionGroup("task", "two_steps") in matrix.cells[2]


@pytest.mark.parametrize(
    "setting",
    [
        ["method.name=lora", "strategy.name=replay", "strategy.settings.share=0.5"],
        *SLOW_SETTINGS,
    ],
    ids=lambda setting: " ".join(setting[:2]),
)
def test_a_sequence_that_stopped_between_tasks_ends_with_the_same_bits(setting: list[str], tmp_path: Path) -> None:
    learn(tmp_path / "a", *setting)
    with pytest.raises(_Stop):
        run_sequence(prepare_sequence(config(tmp_path / "b", *setting)), Console(file=io.StringIO()), _stop_after_two)
    learn(tmp_path / "b", *setting)
    assert (tmp_path / "a/matrix.json").read_bytes() == (tmp_path / "b/matrix.json").read_bytes()
    written = list((tmp_path / "a").glob("*/*.safetensors"))
    assert written
    for first in written:
        assert first.read_bytes() == (tmp_path / "b" / first.relative_to(tmp_path / "a")).read_bytes()


def test_the_model_writes_texts_of_each_task_and_later_tasks_are_held_to_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    learn(out, "method.name=lora", *OWN_TEXT, "tasks=[two_steps, pair_in_short]", "training.steps=6")
    bank, none = (stage_folder(out, stage, task) / "bank" for stage, task in ((1, "two_steps"), (2, "pair_in_short")))
    assert not none.exists()  # nothing follows the last
    texts = read_bank(bank).texts
    assert 0 < len(texts) <= 6
    tokenizer = load_bundled_tokenizer()
    for text in texts:
        prompt, answer = (
            tokenizer.decode(part) for part in (text.tokens[: text.written_from], text.tokens[text.written_from :])
        )
        assert prompt.startswith("Q: ")
        assert prompt.endswith(" A:")
        assert answer.endswith("<eos>")
    logged = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in sorted(out.glob("task-*"))
    ]
    assert all("anchor_kl" in line for lines in logged for line in lines)
    assert ["anchor_task_kl" in lines[0] for lines in logged] == [False, True]
    assert abs(logged[1][0]["anchor_task_kl"]) < 1e-3  # at first it is the model that wrote them
    assert not list(out.glob("task-*/bank*"))


def test_without_texts_of_tasks_the_base_alone_holds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    learn(out, "method.name=lora", *OWN_TEXT, "strategy.settings.task_texts=0")
    assert not list(out.glob("after-*/bank"))
    assert all("anchor_task_kl" not in path.read_text() for path in out.glob("task-*/log.jsonl"))


class _Stop(Exception):
    pass


def _stop_after_two(matrix: Any, stage: int, seconds: float) -> None:
    del matrix, seconds
    if stage == 2:
        raise _Stop


def test_the_final_adapter_loads_and_answers_as_the_last_stage_did(tmp_path: Path) -> None:
    learn(tmp_path / "out", "method.name=lora", "strategy.name=ilora")
    base = AutoModelForCausalLM.from_pretrained(bundled_model_path())
    PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter"))
    slow = load_file(tmp_path / "out" / "after-03-pair_in_short" / "strategy" / "slow.safetensors")
    served = adapter(tmp_path / "out")
    name = next(iter(served))
    assert (served[name] == slow[name.replace(".weight", ".default.weight")]).all()


@pytest.mark.parametrize("method", ["lora", pytest.param("corda", marks=pytest.mark.slow)])
def test_a_sequence_that_begins_anew_ends_in_the_merged_model(method: str, tmp_path: Path) -> None:
    learn(tmp_path / "out", f"method.name={method}", "method.boundary=anew")
    assert not (tmp_path / "out" / "adapter").exists()
    last = load_file(tmp_path / "out" / "after-03-pair_in_short" / "model" / "model.safetensors")
    served = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert last.keys() == served.keys()
    assert all((served[name] == last[name]).all() for name in last)


def test_a_damaged_stage_is_passed_over_with_a_note_and_learned_again(learned: Path) -> None:
    before = (learned / "adapter" / "adapter_model.safetensors").read_bytes()
    last = stage_folder(learned, 3, "pair_in_short") / "adapter" / "adapter_model.safetensors"
    content = bytearray(last.read_bytes())
    content[-5] ^= 255
    last.write_bytes(bytes(content))
    again = prepare_sequence(config(learned))
    assert again.first_stage == 2
    assert again.notes == ["after-03-pair_in_short is damaged and is skipped"]
    run_sequence(again, Console(file=io.StringIO()), lambda *_: None)
    assert (learned / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_a_changed_setting_is_refused_with_the_difference(learned: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.steps was 3, now 5"):
        prepare_sequence(config(learned, "training.steps=5"))


def test_an_undone_task_gives_back_the_scores_from_before_it(learned: Path) -> None:
    opened = open_sequence(learned)
    assert opened.ledger == ["different_homes", "two_steps", "pair_in_short"]
    undone = undo_task(learned, "pair_in_short")
    assert undone.after == opened.matrix.cells[2]
    assert (undone.saved / "adapter_config.json").is_file()
    with pytest.raises(ConfigError, match="was never folded"):
        undo_task(learned, "younger")


def test_what_lies_in_one_adapter_cannot_be_undone(tmp_path: Path) -> None:
    learn(tmp_path / "out", "method.name=lora", "tasks=[different_homes]")
    assert open_sequence(tmp_path / "out").ledger == []
    with pytest.raises(ConfigError, match="cannot be told apart"):
        undo_task(tmp_path / "out", "different_homes")


@pytest.mark.slow
def test_bisection_names_the_task_that_broke_a_family(tmp_path: Path) -> None:
    matrix = learn(
        tmp_path / "out",
        "tasks=[different_homes, younger, two_places_north, long_phrase]",
        "method.name=lora",
        "training.steps=60",
        "training.batch_size=16",
        "training.learning_rate=2e-3",
        "retention.per_family=30",
    )
    scores = [matrix.share(stage, QuestionGroup("knowledge", "older")) or 0.0 for stage in range(5)]
    assert scores[1] > 0.9 > scores[2]
    found = bisect_family(tmp_path / "out", "older", questions=60)
    assert found.task == "younger"
    assert found.models_asked <= 4


def test_an_unknown_family_is_refused_with_those_there_are(learned: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown family 'birds'; this sequence asks for homes"):
        bisect_family(learned, "birds")


def test_the_order_seed_permutes_the_tasks() -> None:
    def names(*more: str) -> list[str]:
        return ordered_tasks(load_config_of(SequenceConfig, None, more))

    assert names() == list(SEQUENCE)
    shuffled = names("order_seed=1")
    assert shuffled != list(SEQUENCE)
    assert sorted(shuffled) == sorted(SEQUENCE)
    assert shuffled == names("order_seed=1")


def test_the_bundled_sequence_has_sixteen_tasks() -> None:
    assert len(SEQUENCE) == 16
    assert set(SEQUENCE) <= set(NEW_TASKS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["tasks=[]"], "tasks is empty"),
        (["tasks=[younger, '']"], "tasks names a task '', without a name"),
        (["tasks=[younger, younger]"], "tasks names younger twice"),
        (["method.name=lora", "method.boundary=fold"], "method lora cannot fold"),
        (["method.name=full", "method.boundary=anew"], "method full has no adapter to begin anew"),
        (["method.name=corda", "method.boundary=keep"], "set method.boundary to anew"),
        (["method.name=corda", "strategy.name=kl_anchor"], "method corda has none; use lwf"),
        (["method.name=full", "strategy.name=kl_anchor"], "method full has none; use lwf"),
        (["strategy.name=ewc"], "set method.boundary to keep"),
        (["strategy.name=ilora"], "set method.boundary to keep"),
        (["strategy.name=o_lora"], "set method.name to lora and method.boundary to anew"),
        (["method.name=lora", "strategy.name=o_lora"], "set method.name to lora and method.boundary to anew"),
        (["strategy.name=replay", "strategy.settings.shore=2"], r"the nearest is strategy.settings.share"),
        (["strategy.settings.share=2"], "sequential has no settings"),
        (["strategy.name=own_text", "strategy.settings.task_texts=-1"], "task_texts is -1"),
        (
            [
                "method.name=lora",
                "method.boundary=anew",
                "strategy.name=own_text",
                "strategy.settings.live_teacher=true",
            ],
            "at method.boundary anew is the model after the task before",
        ),
        (["strategy.name=replay", "strategy.settings.share=2"], "share is 2"),
        (
            ["method.name=dora", "strategy.name=ewc", "strategy.settings.protects=effective_weight"],
            "not known for method dora",
        ),
        (["strategy.name=repaly"], "unknown strategy 'repaly'; the nearest is replay"),
        (["method.name=lora", "method.fold_every=2"], "cannot fold"),
        (["method.fold_every=0"], "give a number of steps, at least 1"),
        (["method.calibration=rows.jsonl"], "method.calibration is for corda"),
        (["data.max_length=100000"], "but the model reads"),
        (["data.max_length=4"], "rows are longer than"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(setting: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        prepare_sequence(config(tmp_path / "out", *setting))
    assert not (tmp_path / "out").exists()


def test_the_matrix_file_says_which_task_came_before_each_stage(learned: Path) -> None:
    stored = json.loads((learned / "matrix.json").read_text())
    assert [stage["after_task"] for stage in stored["stages"]] == [
        None,
        "different_homes",
        "two_steps",
        "pair_in_short",
    ]


def test_the_log_reads_files_and_loads_no_model(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = (learned / "matrix.json").read_text()
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", _fails)
    monkeypatch.setattr("secura.experiments.data.read_items", _fails)
    opened = open_sequence(learned)
    assert opened.ledger == opened.names == ["different_homes", "two_steps", "pair_in_short"]
    assert opened.last_stage == 3
    write_matrix(tmp_path, opened.matrix)
    assert (tmp_path / "matrix.json").read_text() == matrix


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"stages": [{"stage": 0, "groups": {"task:a": {}}}]}', "[" * 100_000]
)
def test_a_damaged_matrix_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text(text)
    with pytest.raises(ConfigError, match=r"matrix\.json is damaged; delete it"):
        read_matrix(tmp_path, ["a"])


def test_a_bisection_uses_no_stage_that_was_changed_and_refuses_numbers_that_mean_nothing(learned: Path) -> None:
    for below in (5.0, float("nan"), 0.0):
        with pytest.raises(ConfigError, match="--below is"):
            bisect_family(learned, "birds", below=below)
    with pytest.raises(ConfigError, match="--questions is 0"):
        bisect_family(learned, "birds", questions=0)
    stage = learned / "after-01-different_homes"
    (stage / "more").touch()
    with pytest.raises(ConfigError, match="is damaged or was changed"):
        load_stage(open_sequence(learned).config, learned, 1)


def _fails(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("loaded or read")


def test_a_folder_of_the_other_command_is_named_as_such(learned: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a sequence; continue it with: secura sequence .*config\.yaml"):
        check_kind(learned, RunConfig)
    write_text(tmp_path / "run" / "config.yaml", config_as_yaml(RunConfig()))
    with pytest.raises(ConfigError, match="holds a run of secura train, not a sequence"):
        open_sequence(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run of secura train, not a sequence"):
        prepare_sequence(config(tmp_path / "run"))


def test_a_whole_model_of_a_stage_still_generates_with_its_cache(tmp_path: Path) -> None:
    learn(tmp_path / "out", "method.name=full", "tasks=[two_steps]")
    stored = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert stored["use_cache"] is True


def test_half_precision_without_a_strategy_is_not_refused_for_one(tmp_path: Path) -> None:
    prepare_sequence(config(tmp_path / "out", "training.precision=fp16"))
    with pytest.raises(ConfigError, match=r"set training\.precision to bf16"):
        prepare_sequence(config(tmp_path / "out", "training.precision=fp16", "strategy.name=lwf"))
