import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_models import gpt2
from dialled_models import answered_by, questions_file, turned_adapter
from peft import LoraConfig, OFTConfig, PeftModel, get_peft_model
from rich.console import Console
from tiny_models import save_tiny_model, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from secura.errors import BaseMismatchError, ConfigError
from secura.evaluation.certificate import certificate_as_json, certify, lower_bound
from secura.experiments.dial.own_run import own_run
from secura.experiments.dial.result import DialResult, result_as_json
from secura.experiments.dial.run import DialSettings, dial
from secura.experiments.models import pair as model_pair
from secura.experiments.run.certified import stored_certificate
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config

TOKENS = torch.tensor([[5, 9, 30, 44, 7]])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return turned_adapter(tmp_path_factory.mktemp("adapter"), size=0.15)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    """The same point as a whole model."""
    folder = tmp_path_factory.mktemp("whole")
    PeftModel.from_pretrained(tiny_model(), str(adapter)).merge_and_unload().save_pretrained(folder)  # type: ignore[operator]
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that the base answers right."""
    return questions_file(tmp_path_factory.mktemp("known") / "known.jsonl", answered_by(tiny_model(), 80, asked="sky"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    """Questions that the tuned model answers right."""
    tuned = PeftModel.from_pretrained(tiny_model(), str(adapter))
    return questions_file(tmp_path_factory.mktemp("new") / "learned.jsonl", answered_by(tuned, 16, asked="sea"))


def turn(base: Path | str, tuned: Path, learned: Path | None, known: Path | None, **settings: Any) -> DialResult:
    asked: dict[str, Any] = {}
    if learned is not None:
        asked["tasks"] = (str(learned),)
    if known is not None:
        asked["retain"] = (str(known),)
    return dial(DialSettings(base=str(base), tuned=str(tuned), **asked, **settings), Console(quiet=True))


def test_each_point_says_what_is_gained_and_what_is_kept(base: Path, adapter: Path, learned: Path, known: Path) -> None:
    result = turn(base, adapter, learned, known, at=(0.0, 0.1, 1.0))
    assert [point.scale for point in result.points] == [0.0, 0.1, 1.0]
    first, near, last = result.points
    assert (first.kept.kept, first.gain, result.unit) == (1.0, 0.0, "points")
    assert near.kept.after > last.kept.after
    assert set(last.scores.values()) == {1.0}
    assert last.gain == pytest.approx(1 - sum(first.scores.values()) / len(first.scores))
    assert last.kept.before == 80
    assert (result.certificate, result.written) == (None, None)
    json.dumps(result_as_json(result), allow_nan=False)


def test_the_point_of_most_gain_within_the_budget_is_certified_on_questions_that_were_held_back(
    base: Path, adapter: Path, learned: Path, known: Path, tmp_path: Path
) -> None:
    point = tmp_path / "point"
    result = turn(base, adapter, learned, known, keep=0.8, write=point)
    certificate = result.certificate
    assert certificate is not None
    assert (certificate.items, certificate.select_items, certificate.outcome) == (40, 40, "certified")
    bounds = {each.scale: lower_bound(each.kept.after, 40) for each in result.points[1:]}
    gains = {each.scale: each.gain for each in result.points[1:]}
    reaching = [scale for scale, bound in bounds.items() if bound >= 0.8]
    assert len(bounds) == certificate.points == 6
    assert gains[certificate.scale or 0] == max(gains[scale] for scale in reaching)
    above = min(scale for scale in bounds if scale > max(reaching))
    assert above - max(reaching) <= 0.0625, "two points more lie where the budget ends"
    # What is written is what was asked, in PEFT's own form.
    written = PeftModel.from_pretrained(tiny_model(), str(point)).eval()
    own = PeftModel.from_pretrained(tiny_model(), str(adapter)).eval()
    for module in own.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", certificate.scale)  # type: ignore[operator]
    with torch.no_grad():
        torch.testing.assert_close(written(TOKENS).logits, own(TOKENS).logits)
    assert (point / "tokenizer_config.json").is_file()
    again = turn(base, point, learned, known, at=(1.0,))
    assert again.points[1].gain == pytest.approx(gains[certificate.scale or 0])


def test_a_whole_model_gives_the_same_points_as_its_adapter_and_its_point_is_a_whole_model(
    base: Path, adapter: Path, whole: Path, learned: Path, known: Path, tmp_path: Path
) -> None:
    from_adapter = turn(base, adapter, learned, known, at=(0.25, 0.5))
    from_whole = turn(base, whole, learned, known, at=(0.25, 0.5))
    assert [each.kept for each in from_whole.points] == [each.kept for each in from_adapter.points]
    assert [each.gain for each in from_whole.points] == pytest.approx([each.gain for each in from_adapter.points])
    turn(base, whole, learned, known, at=(0.25,), write=tmp_path / "point")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "point").state_dict()
    before, after = tiny_model().state_dict(), AutoModelForCausalLM.from_pretrained(whole).state_dict()
    for name, value in written.items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * after[name])


def test_a_method_without_an_adapter_in_between_is_written_as_a_whole_model(
    base: Path, learned: Path, known: Path, tmp_path: Path
) -> None:
    config = OFTConfig(oft_block_size=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapter = turned_adapter(tmp_path / "oft", config)
    with pytest.raises(ConfigError, match=r"no adapter of that kind again \(4 layers, .* --merged"):
        turn(base, adapter, learned, known, at=(0.5,), write=tmp_path / "point")
    turn(base, adapter, learned, known, at=(0.5,), write=tmp_path / "point", merged=True)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "point").state_dict()
    tuned = PeftModel.from_pretrained(tiny_model(), str(adapter)).merge_and_unload().state_dict()  # type: ignore[operator]
    before = tiny_model().state_dict()
    for name, value in written.items():
        torch.testing.assert_close(value, (before[name] + tuned[name]) / 2)


def test_a_budget_that_no_point_keeps_names_the_best_and_writes_it(
    base: Path, adapter: Path, learned: Path, known: Path, tmp_path: Path
) -> None:
    result = turn(base, adapter, learned, known, keep=0.9, at=(0.9, 1.0), refine=0, write=tmp_path / "point")
    assert result.certificate is not None
    assert (result.certificate.outcome, result.certificate.scale) == ("not reachable", 0.9)
    assert "90% is not reachable; the best is" in result.certificate.sentence
    assert (result.written_scale, (tmp_path / "point" / "adapter_config.json").is_file()) == (0.9, True)


def test_questions_that_the_base_answers_wrong_may_leave_too_few_to_tell(
    base: Path, adapter: Path, learned: Path, tmp_path: Path
) -> None:
    questions = answered_by(tiny_model(), 70, asked="sky")
    wrong = [replace(each, answer=next(word for word in each.choices if word != each.answer)) for each in questions]
    file = questions_file(tmp_path / "mixed.jsonl", [*questions[:20], *wrong[20:]])
    result = turn(base, adapter, learned, file, keep=0.9, at=(0.5,), write=tmp_path / "point")
    assert result.certificate is not None
    assert result.certificate.outcome == "too few to tell"
    assert "29 questions that the base answers right must be held back" in result.certificate.sentence
    assert (result.written, (tmp_path / "point").exists()) == (None, False)


def test_a_second_dial_asks_only_what_is_new(
    base: Path, adapter: Path, learned: Path, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn(base, adapter, learned, known, at=(0.5, 1.0))
    seen: list[float] = []
    real = model_pair.scaled

    def watched(model: Any, scale: float, **more: Any) -> Any:
        seen.append(scale)
        return real(model, scale, **more)

    monkeypatch.setattr(model_pair, "scaled", watched)
    console = Console(record=True, file=StringIO())
    settings = DialSettings(
        base=str(base), tuned=str(adapter), tasks=(str(learned),), retain=(str(known),), at=(0.25, 0.5, 1.0)
    )
    dial(settings, console)
    said = console.export_text()
    assert seen == [0.25, 0.5, 1.0]
    assert "asked the model at 0.25 96 questions" in said
    assert "asked the model at 0.5" not in said


@pytest.mark.ci
def test_a_run_of_ours_needs_no_data_named(tmp_path: Path) -> None:
    settings = ["training.steps=2", "data.test_rows=12", "retention.per_family=3"]
    out = tmp_path / "run"
    values = {"method.name": "lora", "data.path": "younger", "out": str(out)}
    train_and_report(prepare_run(load_config(None, settings, values)), Console(quiet=True))
    result = turn("bundled", out, None, None, at=(0.5,))
    report = json.loads((out / "retention.json").read_text())
    assert result.points[0].kept.before == report["retention"]["total"]["right_before"]
    assert list(result.points[0].scores) == ["younger"]
    tally = report["new_task"]["total"]
    assert result.points[0].scores["younger"] == pytest.approx(tally["right_before"] / tally["asked"])
    assert own_run(str(out / "adapter")) == own_run(str(out)) == out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keep": 1.0}, r"--keep is 1\.0; give a share of at least 0 and below 1"),
        ({"keep": 98}, "--keep is 98; give a share"),
        ({"at": (0.5, 3.0)}, "--at names 3"),
        ({"at": (0.0,)}, "--at has no point above 0"),
        ({"count": 0}, "--count is 0"),
        ({"refine": 11}, "--refine is 11"),
        ({"confidence": 0.2}, r"--confidence is 0\.2"),
        ({"merged": True}, "name a folder with --write"),
        ({"write": Path("x")}, "--write needs a point"),
        ({"keep": 0.98}, "149 questions .* there are 40. Raise --count"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], says: str, base: Path, adapter: Path, learned: Path, known: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        turn(base, adapter, learned, known, **settings)


def test_a_folder_that_holds_something_is_not_written_over(
    base: Path, adapter: Path, learned: Path, known: Path
) -> None:
    with pytest.raises(ConfigError, match="already exists"):
        turn(base, adapter, learned, known, at=(0.5,), write=base)


def test_an_adapter_of_another_base_is_refused(adapter: Path, learned: Path, known: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=3)
    with pytest.raises(BaseMismatchError, match="was made for tiny with other weights"):
        turn(other, adapter, learned, known)


def test_a_model_of_another_shape_is_refused(base: Path, learned: Path, known: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", "gpt2")
    with pytest.raises(ConfigError, match=r"the tuned model has .* and the base has not"):
        turn(base, other, learned, known)


def test_what_was_learned_must_be_named_where_no_run_tells(base: Path, adapter: Path, known: Path) -> None:
    with pytest.raises(ConfigError, match="is no run of secura train, so what it learned is not known"):
        turn(base, adapter, None, known)


def test_repeated_questions_are_asked_once(
    base: Path, adapter: Path, learned: Path, known: Path, tmp_path: Path
) -> None:
    doubled = tmp_path / "doubled.jsonl"
    doubled.write_text(2 * known.read_text())
    result = turn(base, adapter, learned, doubled, at=(0.5,))
    assert result.points[0].kept.before == 80
    assert any("80 questions appear in --retain more than once" in note for note in result.notes)


def test_several_files_are_all_read_and_families_of_one_name_are_one(
    base: Path, adapter: Path, learned: Path, known: Path, tmp_path: Path
) -> None:
    questions_file(tmp_path / "more.jsonl", answered_by(tiny_model(), 20, asked="sun"))
    questions_file(tmp_path / "again.jsonl", answered_by(tiny_model(), 90, asked="sky")[80:])
    files = (str(known), str(tmp_path / "more.jsonl"), str(tmp_path / "again.jsonl"))
    settings = DialSettings(base=str(base), tuned=str(adapter), tasks=(str(learned),), retain=files, at=(1.0,))
    result = dial(settings, Console(quiet=True))
    assert result.points[1].kept.before == 80 + 20 + 10


def test_biases_that_an_adapter_brings_are_off_in_the_base(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    model = gpt2()
    model.save_pretrained(folder)
    config = LoraConfig(r=2, target_modules=["c_attn"], bias="all", fan_in_fan_out=True, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    tiny_tokenizer().save_pretrained(folder)
    ids = TOKENS
    with torch.no_grad(), model_pair.model_pair(str(folder), str(tmp_path / "adapter")).base() as ready:
        torch.testing.assert_close(ready.model(ids).logits, gpt2()(ids).logits)


def test_a_stored_certificate_is_found_and_a_broken_one_is_not(tmp_path: Path, base: Path) -> None:
    made = certificate_as_json(
        certify(0.5, 410, keep=0.98, confidence=0.95, seed=0, select_items=400, items=412, points=6)
    )
    (tmp_path / "retention.json").write_text(json.dumps({"certificate": made}))
    assert stored_certificate(tmp_path) == stored_certificate(tmp_path / "adapter") == made
    (tmp_path / "retention.json").write_text(json.dumps({"certificate": {"outcome": "certified"}}))
    assert stored_certificate(tmp_path) is None
    shutil.copy(base / "model.safetensors", tmp_path / "retention.json")
    assert stored_certificate(tmp_path) is None
