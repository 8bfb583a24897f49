import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_results import made_change, made_result, some
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model, tiny_model, tiny_tokenizer

from secura.errors import BaseMismatchError, ConfigError, DataError, SecuraError
from secura.evaluation import significance
from secura.experiments.asking import AskedTask
from secura.experiments.forget.result import ForgetResult, TaskChange, answer_kind, by_clearest_loss
from secura.experiments.forget.result_json import result_as_json
from secura.experiments.forget.run import ForgetSettings, compare, forget
from secura.experiments.methods.adapters import go_on_with_adapter
from secura.experiments.models import pair as model_pair
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.tasks.question import Question
from secura.tasks.world import KNOWLEDGE, load_bundled_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


def _forget(base: str | Path, tuned: str | Path, **settings) -> ForgetResult:
    return forget(ForgetSettings(base=str(base), tuned=str(tuned), **settings), Console(quiet=True))


@pytest.fixture(scope="module")
def taught_younger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned who is younger, at a rate that turns the family `older` around."""
    out = tmp_path_factory.mktemp("younger") / "run"
    settings = [
        *("training.steps=30", "training.learning_rate=3e-3", "training.schedule=constant"),
        *("method.adapter.target_modules=[q_proj, k_proj]", "data.test_rows=1", "retention.per_family=1"),
    ]
    config = load_config(None, settings, {"method.name": "lora", "data.path": "younger", "out": str(out)})
    train_and_report(prepare_run(config), Console(quiet=True))
    return out


@pytest.fixture(scope="module")
def fresh_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter equal to the base: what a learning rate of 0 leaves."""
    folder = tmp_path_factory.mktemp("fresh")
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules=["q_proj", "v_proj"])
    get_peft_model(load_bundled_model(), config).save_pretrained(str(folder))
    return folder


@pytest.mark.ci
def test_the_family_that_a_fine_tune_turned_around_is_named_first(taught_younger: Path) -> None:
    result = _forget("bundled", taught_younger / "adapter", count=40, min_retention=0.98, token_views=3)
    assert {change.name for change in result.changes} == set(KNOWLEDGE)
    worst = result.changes[0]
    assert (worst.name, worst.lost) == ("older", True)
    assert worst.after.value < worst.before.value / 2
    assert result.verdict is not None
    assert not result.verdict.passed
    assert "older kept" in result.verdict.reason
    assert result.flips[0].task == "older"
    assert [change.name for change in result.changes if change.lost] == [change.name for change in result.lost]


def test_an_adapter_equal_to_the_base_changes_nothing(fresh_adapter: Path) -> None:
    result = _forget("bundled", fresh_adapter, count=16, min_retention=0.98)
    assert [change.name for change in result.changes if change.significant] == []
    assert list(result.flips) == []
    assert result.kept is not None
    assert result.kept.kept == 1
    assert result.verdict is not None
    assert result.verdict.passed, result.verdict.reason
    assert result.record["tuned_model"]["merged"]
    assert list(result.notes) == []


def test_the_base_is_asked_once_and_again_where_that_is_wanted(
    fresh_adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ForgetSettings(base="bundled", tuned=str(fresh_adapter), tasks=("older", "road"), count=10)
    first, second = forget(settings, Console()), forget(settings, Console())
    said = capsys.readouterr().out
    assert said.count("asked the base model 20 questions") == 1
    assert said.count("asked the tuned model 20 questions") == 2
    assert [[change.cached for change in result.changes] for result in (first, second)] == [[False] * 2, [True] * 2]
    assert [change.before for change in first.changes] == [change.before for change in second.changes]
    forget(replace(settings, fresh=True), Console())
    assert "asked the base model 20 questions" in capsys.readouterr().out
    next((tmp_path / "cache").rglob("older-*.json")).write_text("damaged")
    third = forget(settings, Console())
    assert "asked the base model 10 questions" in capsys.readouterr().out
    assert "is damaged" in third.notes[0]


def test_a_flip_is_seen_token_by_token_under_both_models(taught_younger: Path) -> None:
    result = _forget("bundled", taught_younger, tasks=("older", "sums"), count=20, token_views=3)
    viewed = [flip for flip in result.flips if flip.views]
    assert len(viewed) == 3
    assert {flip.task for flip in viewed} == {"older", "sums"}
    for flip in viewed:
        old, new = flip.views
        assert (old.answer, new.answer) == (flip.before.given, flip.after.given)
        assert len(old.tokens) == len(old.base) == len(old.tuned)
        # Each model finds its own answer more likely than the other one's, as it was scored.
        if flip.question.choices:
            at = flip.question.choices.index(flip.before.given)
            assert sum(value or 0 for value in old.base) == pytest.approx(flip.before.likelihoods[at], abs=1e-4)
            assert sum(value or 0 for value in old.tuned) == pytest.approx(flip.after.likelihoods[at], abs=1e-4)
        else:
            assert new.tokens[-1] == "<eos>" or flip.after.truncated


def test_a_whole_model_is_compared_as_an_adapter_is(llama_folder: Path, retain_file: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    result = _forget(llama_folder, other, retain=str(retain_file), token_views=2)
    assert {change.name for change in result.changes} == {"family 0", "family 1"}
    assert result.record["tuned_model"] == {"arithmetic": "torch.float32 on cpu", "adapter": False, "merged": False}
    assert sum(bool(flip.views) for flip in result.flips) == min(2, len(result.flips))
    same = _forget(llama_folder, llama_folder, retain=str(retain_file))
    assert list(same.flips) == []


@pytest.mark.slow
def test_of_two_whole_models_one_is_in_memory_at_a_time(
    llama_folder: Path, retain_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref] = []
    load_model = model_pair.load_model

    def watched(config):
        assert [model for model in loaded if model() is not None] == []
        model, tokenizer = load_model(config)
        loaded.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(model_pair, "load_model", watched)
    _forget(llama_folder, save_tiny_model(tmp_path / "other", seed=1), retain=str(retain_file))
    assert len(loaded) >= 2


@pytest.mark.slow
def test_models_that_cut_text_differently_are_compared_without_tokens(llama_folder: Path, tmp_path: Path) -> None:
    letters = list("abcdefgh")  # of one token each, so that two random models prefer different ones
    rows = [{"question": f"{number}?", "choices": letters, "answer": letters[number % 8]} for number in range(64)]
    retain = tmp_path / "retain.jsonl"
    retain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = save_tiny_model(tmp_path / "other", seed=1, chat=True)
    result = _forget(llama_folder, other, retain=str(retain))
    assert "different chat templates" in result.notes[0]
    assert result.flips
    assert "into different tokens" in result.notes[1]
    assert not any(flip.views for flip in result.flips)


@pytest.mark.slow
def test_an_adapter_of_virtual_tokens_is_scored_with_them(
    llama_folder: Path, retain_file: Path, tmp_path: Path
) -> None:
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(tiny_model(), config)
        torch.nn.init.normal_(next(iter(adapted.prompt_encoder.parameters())), std=5.0)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    result = _forget(llama_folder, tmp_path / "adapter", retain=str(retain_file))
    pairs = [pair for change in result.changes for pair in zip(change.before.items, change.after.items, strict=True)]
    assert any(old.likelihoods != new.likelihoods for old, new in pairs)
    assert any("cannot be merged" in note for note in result.notes)


def test_rows_of_a_file_are_scored_by_what_they_are(llama_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"question": "sky?", "choices": ["a", "b"], "answer": 0, "family": "mixed"},
        {"prompt": "sea?", "target": "blue", "family": "mixed"},
        {"prompt": "sum?", "target": "long " * 80, "family": "summaries"},
        {"prompt": "row?", "target": '{"a": "b"}' + " " * 80, "match": "json", "family": "rows"},
        {"prompt": "lake?", "target": "grey", "match": "contains", "family": "rows"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "the sky is blue and grey"}) + "\n")
    found = {
        change.name: change.task.metric for change in _forget(llama_folder, llama_folder, retain=str(path)).changes
    }
    assert found == {
        "mixed, accuracy": "accuracy",
        "mixed, exact_match": "exact_match",
        "summaries": "rougeL",
        "rows": "match",
    }
    result = _forget(llama_folder, llama_folder, retain=str(text))
    assert [(change.name, change.task.metric) for change in result.changes] == [("text", "perplexity")]
    assert result.kept is None


def test_each_graded_task_is_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [made_change(name, [0.2, 0.4] * 20, [0.1, 0.4] * 20, metric="rougeL") for name in ("a", "b")]
    resampled = []

    def counted(*arguments, **options):
        resampled.append(options["seed"])
        return paired_bootstrap(*arguments, **options)

    paired_bootstrap = significance.paired_bootstrap
    monkeypatch.setattr(significance, "paired_bootstrap", counted)
    asked = [AskedTask(task=each.task, items=[item.item for item in each.before.items]) for each in made]
    settings = ForgetSettings(base="base", tuned="tuned", seed=3)
    found = compare(asked, [each.before for each in made], [each.after for each in made], [False] * 2, settings)
    assert resampled == [3, 3]
    alone = compare(asked[:1], [made[0].before], [made[0].after], [False], settings)
    assert found[0].paired.smallest_visible is not None
    assert alone[0].paired.smallest_visible is not None
    assert found[0].paired.smallest_visible > alone[0].paired.smallest_visible


def test_everything_is_in_the_json(taught_younger: Path) -> None:
    result = _forget("bundled", taught_younger, tasks=("older", "ages"), count=30)
    stored = json.loads(json.dumps(result_as_json(result), allow_nan=False))
    assert stored["clearest_loss"] == "older"
    older = next(task for task in stored["tasks"] if task["task"] == "older")
    assert len(older["answers"]) == older["items"] == 30
    assert set(older["answers"][0]) == {"prompt", "right", "choices", "base", "tuned"}
    assert older["interval"][0] <= older["difference"] <= older["interval"][1]
    assert len(stored["flips"]) == len(result.flips)
    assert stored["settings"]["count"] == 30
    assert {"versions", "commit", "hardware"} == set(stored["provenance"])
    assert len(stored["task_versions"]) == 2


def test_the_order_is_significant_losses_by_their_least_then_the_rest_then_gains() -> None:
    changes = [
        made_change("gain", some(10, 100), some(60, 100)),
        made_change("same", some(50, 100), some(50, 100)),
        made_change("few but all", some(8, 8), some(0, 8)),  # a large loss, less surely so
        made_change("many", some(300, 300), some(60, 300)),
        made_change("a little worse", some(50, 100), some(49, 100)),
        made_change("nats", [3.0, 3.2] * 20, [3.1, 3.3] * 20, metric="perplexity"),
    ]
    names = [change.name for change in by_clearest_loss(changes)]
    assert names == ["many", "few but all", "nats", "a little worse", "same", "gain"]


@pytest.mark.parametrize(
    ("answer", "choices", "kind"),
    [
        ("Xena", ("Xena", "Mina"), "choice"),
        ("12", (), "number"),
        ("-1,234.5", (), "number"),
        ("$30", (), "number"),
        ("7 %", (), "number"),
        ("blue", (), "word"),
        ("12th", (), "word"),
        ("kope daru", (), "longer text"),
        ("12 apples", (), "longer text"),
    ],
)
def test_the_kind_of_an_answer_is_told_by_the_right_one(answer: str, choices: tuple[str, ...], kind: str) -> None:
    assert answer_kind(Question(prompt="?", answer=answer, choices=choices)) == kind


def test_a_worked_solution_of_which_the_number_counts_is_a_number() -> None:
    assert answer_kind(Question(prompt="?", answer="3 + 4 = 7\n#### 7"), "number_match") == "number"


def test_flips_have_a_direction_and_a_place() -> None:
    flips = made_result(made_change("mixed", [1, 1, 0, 0], [0, 1, 1, 0])).flips
    assert [(flip.index, flip.direction) for flip in flips] == [(0, "lost"), (2, "gained")]


def _adapter(folder: Path, base: Path | None = None) -> Path:
    model = tiny_model() if base is None else tiny_model("llama", seed=1)
    get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


def test_an_adapter_for_other_weights_is_refused(llama_folder: Path, retain_file: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    (adapter / "secura_base.json").write_text(json.dumps({"model": "another", "fingerprint": "0"}))
    with pytest.raises(BaseMismatchError, match="was made for another with other weights"):
        _forget(llama_folder, adapter, retain=str(retain_file))


@pytest.mark.slow
def test_an_adapter_for_a_model_of_another_name_is_told_of(
    llama_folder: Path, retain_file: Path, tmp_path: Path
) -> None:
    adapter = _adapter(tmp_path / "adapter")
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "base_model_name_or_path": "org/other"}))
    assert "says it was made for org/other" in _forget(llama_folder, adapter, retain=str(retain_file)).notes[0]


def test_an_adapter_of_another_shape_is_refused_in_one_line(retain_file: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    with pytest.raises(BaseMismatchError, match=r"does not fit bundled: [^\n]+$"):
        _forget("bundled", adapter, retain=str(retain_file))


@pytest.mark.parametrize(
    ("base", "tuned", "settings", "says"),
    [
        ("bundled", "nowhere/at/all", {}, "no such folder"),
        ("bundled", "{empty}", {}, "neither adapter_config.json nor config.json"),
        ("bundled", "{file}", {}, "is a file"),
        ("{llama}", "{llama}", {}, "nothing to ask: name tasks with --tasks"),
        ("bundled", "{llama}", {"tasks": ("oldest",)}, "'oldest' is no task; the nearest are"),
        ("bundled", "{llama}", {"tasks": ("older",), "count": 20, "min_retention": 0.98}, "that takes 183"),
        ("{llama}", "{llama}", {"retain": "{text}", "min_retention": 0.5}, "no task asked has right and wrong"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_asked(
    base: str, tuned: str, settings: dict, says: str, llama_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "text.jsonl").write_text('{"text": "the sky"}\n')
    places = {
        "empty": tmp_path / "empty",
        "file": tmp_path / "file",
        "llama": llama_folder,
        "text": tmp_path / "text.jsonl",
    }
    filled = {key: value.format(**places) if isinstance(value, str) else value for key, value in settings.items()}
    with pytest.raises((ConfigError, DataError), match=says):
        _forget(base.format(**places), tuned.format(**places), **filled)
    assert not (tmp_path / "cache").exists()


def test_a_wrong_name_is_refused_before_any_weight_is_loaded(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("secura.experiments.models.pair.load_model", load)
    for wrong in ({"tasks": ("oldest",)}, {"retain": "homs"}):
        with pytest.raises((ConfigError, DataError), match="the nearest"):
            _forget("bundled", str(llama_folder), **wrong)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"count": 0}, "--count is 0"),
        ({"confidence": 1.0}, "--confidence is 1.0"),
        ({"min_retention": 1.0}, "no number of questions can show that everything is kept"),
        ({"token_views": -1}, "--token-views is -1"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ForgetSettings(base="bundled", tuned="adapter", **settings)


@pytest.mark.slow
def test_a_model_of_nan_weights_is_told_of_in_one_sentence(
    llama_folder: Path, retain_file: Path, tmp_path: Path
) -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(SecuraError, match="NaN"):
        _forget(llama_folder, tmp_path / "broken", retain=str(retain_file))


def _given(change: TaskChange) -> list[str]:
    return [item.given for item in change.before.items]


@pytest.mark.ci
def test_an_adapter_that_changes_the_base_itself_is_told_apart_from_it(fresh_adapter: Path, tmp_path: Path) -> None:
    poisoned = tmp_path / "poisoned"
    shutil.copytree(fresh_adapter, poisoned)
    weights = load_file(poisoned / "adapter_model.safetensors")
    head = load_bundled_model().get_output_embeddings().weight.detach()
    weights["base_model.model.lm_head.weight"] = head.roll(1, 0).contiguous()
    save_file(weights, poisoned / "adapter_model.safetensors")
    asked = {"count": 8, "min_retention": 0.5, "token_views": 2}
    told = _forget("bundled", poisoned, **asked)
    assert told.verdict is not None
    assert not told.verdict.passed
    assert any("changes weights of the base itself" in note for note in told.notes)
    clean = _forget("bundled", fresh_adapter, **asked)  # whose base comes from the cache
    assert all(change.cached for change in clean.changes)
    anew = _forget("bundled", fresh_adapter, fresh=True, **asked)
    assert [_given(change) for change in clean.changes] == [_given(change) for change in anew.changes]
    with pytest.raises(BaseMismatchError, match="changes weights of the base itself"):
        go_on_with_adapter(load_bundled_model(), poisoned, "lora", {})
