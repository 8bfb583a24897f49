import json
import re
import runpy
from pathlib import Path

import pytest
from exported_models import tuned
from tiny_models import tiny_tokenizer

from secura.cli.app import DONE, run
from secura.evaluation.certificate import certificate_as_json, certify
from secura.report.card.checked import check_card


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the bundled model with a certificate."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    few = ["training.steps=2", "retention.per_family=2", "data.test_rows=4", "method.adapter.norm=none"]
    assert run(["train", "--out", str(out), *(part for each in few for part in ("--set", each))]) == DONE
    report = json.loads((out / "retention.json").read_text())
    known = {"keep": 0.98, "confidence": 0.95, "seed": 0, "select_items": 400, "items": 412, "points": 6}
    report["certificate"] = certificate_as_json(certify(0.5, 410, **known))
    (out / "retention.json").write_text(json.dumps(report))
    return out


def card_of(certified: Path, out: Path, *more: str) -> str:
    assert run(["export", str(certified), "--out", str(out), *more]) == DONE
    text = (out / "README.md").read_text()
    check_card(text)
    return text


@pytest.mark.parametrize("form", ["lora", "merged", "gguf", "ollama"])
def test_every_form_carries_the_certificate(form: str, certified: Path, tmp_path: Path) -> None:
    text = card_of(certified, tmp_path / "out", "--to", form)
    assert "At least 98% of what the base answered right it still answers right" in text
    assert ("how far the two are apart" in text) is (form in ("gguf", "ollama"))
    assert "config.yaml` beside" not in text
    prompts = [each["prompt"] for each in json.loads((certified / "retention.json").read_text())["new_task"]["answers"]]
    assert not any(prompt in text for prompt in prompts)


def test_another_point_of_the_dial_is_not_certified(certified: Path, tmp_path: Path) -> None:
    text = card_of(certified, tmp_path / "out", "--to", "merged", "--scale", "0.5")
    assert "Certificate" not in text
    assert "right answers" not in text
    assert "at 0.5 of what was learned" in text


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_the_snippet_runs_as_it_stands(
    form: str, certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = card_of(certified, tmp_path / "out", "--to", form)
    _run_snippet(text, tmp_path / "out", capsys, monkeypatch)


def test_the_snippet_of_a_chat_adapter_of_no_run_runs_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned("llama").unload().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "base")
    tuned("llama", norm="none").save_pretrained(str(tmp_path / "adapter"))
    asked = ["export", str(tmp_path / "adapter"), "--to", "merged", "--base", str(tmp_path / "base")]
    assert run(asked) == DONE
    text = (tmp_path / "adapter-merged" / "README.md").read_text()
    assert "apply_chat_template" in text
    _run_snippet(text, tmp_path / "adapter-merged", capsys, monkeypatch)


def _run_snippet(text: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    (folder / "snippet.py").write_text(found[1])
    monkeypatch.chdir(folder)
    capsys.readouterr()
    runpy.run_path(str(folder / "snippet.py"))
    assert capsys.readouterr().out.strip()
