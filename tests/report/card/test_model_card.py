import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from tiny_models import save_tiny_model

from secura.cli.app import run
from secura.errors import ConfigError, DataError, SecuraError
from secura.evaluation.certificate import certificate_as_json, certify
from secura.evaluation.tally import Tally
from secura.report.card.finished_run import FinishedRun, Group, read_run
from secura.report.card.loading import A_PROMPT
from secura.report.card.model_card import card_text, write_card
from secura.report.card.push import push_run

FEW = ("training.steps=2", "retention.per_family=2", "data.test_rows=4")


def _settings(*assignments: str) -> list[str]:
    return [part for each in assignments for part in ("--set", each)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the bundled model, as `secura train` leaves it."""
    out = tmp_path_factory.mktemp("trained") / "out"
    assert run(["train", "--out", str(out), *_settings(*FEW)]) == 0
    return out


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(trained, tmp_path / "out"))


def _snippet(card: str) -> str:
    found = re.search(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_hub_reads_back_the_results_that_the_run_stored(trained: Path) -> None:
    finished = read_run(trained)
    card = ModelCard(card_text(finished))
    stored = json.loads((trained / "retention.json").read_text())
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.eval_results is not None
    by_place = {(each.dataset_type, each.metric_type): each.metric_value for each in card.data.eval_results}
    total = stored["retention"]["total"]
    assert by_place["retention/all", "accuracy"] == round(total["right_after"] / total["asked"], 4)
    assert by_place["retention/all", "knowledge_kept"] == round(total["kept"], 4)
    assert by_place["ask_in_ulvish", "accuracy"] == stored["new_task"]["total"]["right_after"] / 4
    assert card.data.model_name is not None
    index = eval_results_to_model_index(card.data.model_name, card.data.eval_results)
    front = yaml.safe_load(str(card).split("---")[1])
    assert front["model-index"] == index


def test_license_language_and_a_base_that_is_not_on_the_hub_are_left_open_and_said_to_be(trained: Path) -> None:
    text = card_text(read_run(trained))
    front = yaml.safe_load(text.split("---")[1])
    assert not {"license", "language", "base_model", "datasets"} & set(front)
    assert "# license: yours to choose" in text
    assert "License, language and intended use are not stated here" in text


def test_the_snippet_loads_the_adapter_and_answers(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_card(read_run(finished), force=False)
    script = path.parent / "snippet.py"
    script.write_text(_snippet(path.read_text()))
    monkeypatch.chdir(path.parent)
    capsys.readouterr()
    made = runpy.run_path(str(script))
    assert made["model"].active_adapter == "default"
    answer = capsys.readouterr().out
    assert answer.strip()
    assert A_PROMPT not in answer


@pytest.mark.parametrize("chat", [True, False])
def test_the_snippet_of_a_chat_model_asks_through_its_template(
    chat: bool, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_model(tmp_path, chat=chat)
    text = card_text(_changed(trained, saved=tmp_path, is_adapter=False, peft_type=""))
    assert ("apply_chat_template" in _snippet(text)) is chat
    (tmp_path / "snippet.py").write_text(_snippet(text))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    made = runpy.run_path(str(tmp_path / "snippet.py"))
    tokenizer = made["tokenizer"]
    assert tokenizer.decode(made["tokens"][0]).startswith("<|user|>" if chat else A_PROMPT)
    assert capsys.readouterr().out.strip()


def test_no_row_of_the_data_is_shown_unless_that_is_asked_for(finished: Path) -> None:
    report = json.loads((finished / "retention.json").read_text())
    rows = [answer for part in ("new_task", "retention") for answer in report[part]["answers"]]
    card = finished / "adapter" / "README.md"
    assert run(["card", str(finished)]) == 0
    assert not any(row["prompt"] in card.read_text() for row in rows)
    assert run(["card", str(finished), "--show-question"]) == 0
    assert json.dumps(rows[0]["prompt"]) in card.read_text()


def test_the_table_has_every_family_with_its_interval_and_no_path_of_this_machine(trained: Path) -> None:
    text = card_text(read_run(trained))
    families = json.loads((trained / "retention.json").read_text())["retention"]["families"]
    for family in families:  # of two questions nothing can be said
        row = rf"^\| {family['family']} \| 2 \| 100\.0% \| \S+% \| too few to tell \| – \| 0 \|$"
        assert re.search(row, text, re.MULTILINE)
    assert re.search(r"^\| \*\*all\*\* \| 26 \| .* \| \d+\.\d% to \d+\.\d% \| 0 \|$", text, re.MULTILINE)
    assert str(Path(__file__).parents[3]) not in text
    assert str(trained) not in text


def test_pefts_form_and_an_untouched_card_are_replaced_and_an_edited_one_is_not(finished: Path) -> None:
    run_ = read_run(finished)
    path = finished / "adapter" / "README.md"
    assert "# Model Card for Model ID" in path.read_text()  # as PEFT writes it
    write_card(run_, force=False)
    first = path.read_text()
    write_card(run_, force=False)
    assert path.read_text() == first
    edited = first.replace("# license: yours to choose", "license: apache-2.0\n# once")
    path.write_text(edited)
    with pytest.raises(ConfigError, match="was written or edited by hand; --force replaces it"):
        write_card(run_, force=False)
    assert path.read_text() == edited
    write_card(run_, force=True)
    assert path.read_text() == first


def _changed(trained: Path, **changes: Any) -> FinishedRun:
    return replace(read_run(trained), **changes)


def test_a_base_and_data_on_the_hub_are_named_for_the_hub(trained: Path) -> None:
    found = _changed(trained, base="org/base-2b", peft_type="LORA", method="lora", tasks=["org/rows:main:train"])
    found = replace(found, config={**found.config, "data": {**found.config["data"], "path": "org/rows:main:train"}})
    text = card_text(found)
    front = yaml.safe_load(text.split("---")[1])
    assert (front["base_model"], front["datasets"]) == ("org/base-2b", ["org/rows"])
    assert "base_model:adapter:org/base-2b" in front["tags"]
    assert "BASE = 'org/base-2b'" in _snippet(text)
    assert "import secura" not in _snippet(text)


def test_a_local_base_and_a_local_file_go_by_their_names_alone(trained: Path) -> None:
    found = _changed(trained, base="/home/somebody/models/base-2b", tasks=["rows"])
    found = replace(
        found, config={**found.config, "data": {**found.config["data"], "path": "/home/somebody/rows.jsonl"}}
    )
    text = card_text(found)
    assert "/home/somebody" not in text
    assert "rows.jsonl" in text
    assert "base-2b, a local folder: name it under `base_model` above" in text


def test_without_questions_the_card_says_that_forgetting_was_not_measured(trained: Path) -> None:
    text = card_text(_changed(trained, families=[], knowledge=None, learned=[], prompt=""))
    assert "What it forgot was not measured." in text
    assert "Forgetting was not measured at all." in text
    assert "model-index" not in text


def test_a_strategy_against_forgetting_is_named_with_its_settings(trained: Path) -> None:
    found = _changed(trained, strategy="kl_anchor")
    assert "strategy against forgetting" not in card_text(read_run(trained))
    strategy = {"name": "kl_anchor", "settings": {"strength": 0.5}}
    text = card_text(replace(found, config={**found.config, "strategy": strategy}))
    assert "| strategy against forgetting | kl_anchor |" in text
    assert "| strategy.strength | 0.5 |" in text


def test_a_whole_model_is_loaded_by_transformers_alone(trained: Path) -> None:
    text = card_text(_changed(trained, is_adapter=False, peft_type="", method="full"))
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "transformers"
    assert "PeftModel" not in text
    assert "all its weights were trained" in text
    merged = card_text(_changed(trained, is_adapter=False, peft_type=""))
    assert "with what was trained merged in" in merged


def test_what_was_gained_stands_beside_what_was_kept_and_makes_up_for_no_loss(trained: Path) -> None:
    tally = Tally(asked=40, before=20, after=30, lost=5)
    text = card_text(_changed(trained, knowledge=tally, families=[Group(name="homes", tally=tally)]))
    assert "| homes | 40 | 50.0% | 75.0% | 75.0% | 50.8% to 91.3% | 15 |" in text
    assert "answers 20 right, of which it kept 75.0% (95% interval 50.8% to 91.3%); it gained 15 others." in text
    few = card_text(_changed(trained, knowledge=Tally(asked=10, before=1, after=2, lost=0), families=[]))
    assert "Its base model answers 1 of 10 knowledge questions right: too few to tell what it kept." in few
    assert "knowledge_kept" not in few


def test_a_report_from_before_losses_were_counted_still_makes_a_card(finished: Path) -> None:
    path = finished / "retention.json"
    stored = json.loads(path.read_text())
    for part in ("new_task", "retention"):
        del stored[part]["confidence"]
        for tally in (stored[part]["total"], *stored[part]["families"]):
            for newer in ("lost", "gained", "kept_interval", "too_few_to_tell"):
                del tally[newer]
    before = card_text(read_run(finished))
    path.write_text(json.dumps(stored))
    assert card_text(read_run(finished)) == before


def test_a_certificate_stands_on_the_card_and_nothing_where_there_is_none(finished: Path) -> None:
    assert "Certificate" not in card_text(read_run(finished))
    report = json.loads((finished / "retention.json").read_text())
    known = {"keep": 0.98, "confidence": 0.95, "seed": 0, "select_items": 400, "items": 412, "points": 6}
    report["certificate"] = certificate_as_json(certify(0.5, 410, **known))
    (finished / "retention.json").write_text(json.dumps(report))
    card = card_text(read_run(finished))
    assert "**At least 98% of what the base answered right it still answers right, with 95% confidence" in card
    assert "410 of 412 (99.5%)" in card


def test_names_with_bars_and_markup_stay_in_their_cells(trained: Path) -> None:
    found = read_run(trained)
    text = card_text(replace(found, families=[replace(found.families[0], name="a | <b>\nc")]))
    assert "| a \\| &lt;b> c | 2 |" in text


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        read_run(tmp_path)
    shutil.copy(trained / "secura_base.json", tmp_path)
    with pytest.raises(DataError, match="holds an unfinished run"):
        read_run(tmp_path)
    assert read_run(trained / "adapter").folder == trained


@pytest.mark.parametrize("name", ["retention.json", "secura_base.json", "adapter/adapter_config.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"config": 1, "method": []}'])
def test_a_run_with_a_damaged_file_is_refused_in_a_sentence(finished: Path, name: str, content: bytes) -> None:
    (finished / name).write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        read_run(finished)


@pytest.mark.slow
def test_a_sequence_has_every_task_and_the_strategy(tmp_path: Path) -> None:
    file = tmp_path / "seq.yaml"
    file.write_text("tasks: [different_homes, two_steps]\nstrategy: {name: replay}\n")
    out = tmp_path / "out"
    assert run(["sequence", str(file), "--out", str(out), *_settings(*FEW, "data.train_rows=20")]) == 0
    assert run(["card", str(out)]) == 0
    card = ModelCard.load(out / "adapter" / "README.md")
    text = str(card)
    assert re.search(r"^\| different_homes \| 4 \|.*\n\| two_steps \| 4 \|", text, re.MULTILINE)
    assert "| strategy against forgetting | replay |" in text
    assert "Learned from: different_homes, two_steps, one after the other in this order." in text
    assert card.data.tags is not None
    assert "replay" in card.data.tags
    kept = [each for each in card.data.eval_results or [] if each.dataset_type == "retention/all"]
    matrix = json.loads((out / "matrix.json").read_text())["stages"]
    before, after = (
        "".join(group["right"] for name, group in stage["groups"].items() if name.startswith("knowledge:"))
        for stage in (matrix[0], matrix[-1])
    )
    lost = sum(old == "1" and new == "0" for old, new in zip(before, after, strict=True))
    assert kept[1].metric_value == round(1 - lost / before.count("1"), 4)


def test_a_finished_run_goes_to_the_hub_with_its_card(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, repository: str, **options: Any) -> str:
            asked.append((repository, options))
            return f"https://hub/{repository}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **options: Any) -> None:
            asked.append((repo_id, allow_patterns))

    monkeypatch.setattr("secura.report.card.push.HfApi", Hub)
    assert push_run(finished, "me/it") == "https://hub/me/it"
    assert asked[0] == ("me/it", {"private": True, "exist_ok": True})
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(asked[1][1])


def test_a_hub_that_takes_nothing_says_how_to_go_on(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def create_repo(self, repository: str, **options: Any) -> str:
            raise OSError("no\nroute")

    monkeypatch.setattr("secura.report.card.push.HfApi", Hub)
    said = r"the run is complete, but it could not be uploaded to me/it: .*no route.*To try again: secura push .* me/it"
    with pytest.raises(SecuraError, match=said):
        push_run(finished, "me/it")
