import json
from pathlib import Path

import huggingface_hub.constants
import pytest
from tiny_models import save_tiny_model, tiny_model, tiny_tokenizer

from secura.cli.app import USAGE, run
from secura.errors import ConfigError
from secura.experiments.models.loading import check_model, load_model
from secura.experiments.models.weight_files import weight_files
from secura.experiments.settings.run import ModelConfig


def _cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    tiny_model().save_pretrained(folder, max_shard_size="50KB")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def cut_short(tmp_path: Path) -> Path:
    folder = save_tiny_model(tmp_path / "cut")
    _cut_short(folder / "model.safetensors")
    return folder


def test_every_shard_of_a_model_is_found_and_a_whole_model_passes(sharded: Path, llama_folder: Path) -> None:
    assert len(weight_files(str(sharded))) > 1
    for folder in (sharded, llama_folder):
        check_model(str(folder))
        load_model(ModelConfig(path=str(folder)))


def test_a_damaged_or_missing_shard_is_named(sharded: Path) -> None:
    first, second, *_ = sorted(sharded.glob("model-*.safetensors"))
    _cut_short(second)
    with pytest.raises(ConfigError, match=f"^{second} is damaged, perhaps cut short"):
        load_model(ModelConfig(path=str(sharded)))
    first.unlink()
    with pytest.raises(ConfigError, match=f"^{first} is missing"):
        check_model(str(sharded))


def test_a_model_without_a_tokenizer_is_refused_by_the_check_too(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no tokenizer that can be loaded"):
        check_model(str(tmp_path))


def test_an_index_that_is_not_json_is_one_sentence(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ConfigError, match=r"^model \S+ cannot be loaded: [^\n]+$"):
        check_model(str(sharded))


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--model", "{cut}", "--data", "{rows}"],
        ["eval", "--model", "{cut}", "--tasks", "older", "--count", "2"],
        ["forget", "{cut}", "{whole}", "--tasks", "older", "--count", "2"],
        ["forget", "{whole}", "{cut}", "--tasks", "older", "--count", "2"],
        ["forget", "{whole}", "{adapter}", "--tasks", "older", "--count", "2"],
        ["eval", "--model", "{whole}", "--adapter", "{adapter}", "--tasks", "older", "--count", "2"],
    ],
)
def test_a_file_that_is_cut_short_is_named_in_one_sentence_and_nothing_is_asked(
    command: list[str],
    cut_short: Path,
    llama_folder: Path,
    rows_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    places = {"cut": cut_short, "whole": llama_folder, "rows": rows_file, "adapter": adapter}
    out = ["--out", str(tmp_path / "out")]
    assert run([part.format(**places) for part in command] + out) == USAGE
    captured = capsys.readouterr()
    named = adapter / "adapter_model.safetensors" if "{adapter}" in command else cut_short / "model.safetensors"
    assert captured.err.startswith(f"secura: {named} is damaged, perhaps cut short (")
    assert captured.err.count("\n") == 1
    assert "asked the" not in captured.out
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_in_no_cache_is_refused_before_the_base_is_asked(
    llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    command = ["forget", str(llama_folder), "nope", "--tasks", "older", "--count", "2", "--out", str(tmp_path / "out")]
    assert run(command) == USAGE
    captured = capsys.readouterr()
    assert captured.err.startswith("secura: model nope cannot be loaded: ")
    assert captured.err.count("\n") == 1
    assert "asked the" not in captured.out
