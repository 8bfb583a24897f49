import io
import json
import socket
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_models import save_tiny_model

from secura.errors import ConfigError
from secura.experiments.models.base_record import base_fingerprint
from secura.experiments.models.loading import as_stored, load_model, load_tokenizer_and_context
from secura.experiments.run.prepare import prepare_run
from secura.experiments.run.train import train_and_report
from secura.experiments.settings.layers import load_config
from secura.experiments.settings.run import ModelConfig


def test_a_tokenizer_and_the_context_are_read_without_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    tokenizer, context = load_tokenizer_and_context(ModelConfig(path=str(folder)))
    assert context == 64
    assert len(tokenizer) == len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", None),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"[" * 100_000),
        ("tokenizer.json", None),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer.json", b'{"model": 3}'),
    ],
    ids=["no weights", "weights cut", "config cut", "config a list", "config nested", "cut", "nested", "no tokenizer"],
)
def test_a_model_with_a_damaged_file_is_refused_in_a_sentence(name: str, content: bytes | None, tmp_path: Path) -> None:
    file = save_tiny_model(tmp_path / "model") / name
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ConfigError, match=str(tmp_path / "model")) as refused:
        load_model(ModelConfig(path=str(tmp_path / "model")))
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_here_is_refused_at_once_where_the_hub_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def refuse(*where: object, **_: object) -> None:
        asked.append(where)
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(
        ConfigError, match=r"model org/nowhere: no such folder here, .* cannot be reached; name a folder"
    ):
        load_tokenizer_and_context(ModelConfig(path="org/nowhere"))
    assert len(asked) == 1


def test_an_attention_implementation_is_the_models_own(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    model, _ = load_model(ModelConfig(path=str(folder), attn_implementation="eager"))
    assert model.config._attn_implementation == "eager"


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("method", ["lora", "secura"])
def test_an_adapter_is_learned_on_a_base_in_fewer_bits_and_belongs_to_the_base_as_stored(
    bits: str, method: str, rows_file: Path, retain_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    folder = save_tiny_model(tmp_path / "model")
    flags = {"model.path": str(folder), "data.path": str(rows_file), "retention.path": str(retain_file)}
    small = ["training.steps=3", "training.batch_size=2", "data.test_rows=4", "method.fold_every=null"]
    out = {"out": str(tmp_path / "out"), "method.name": method}
    prepared = prepare_run(load_config(None, [*small, f"model.load_in_{bits}=true"], {**flags, **out}))
    dtypes = {weight.dtype for weight in prepared.model.parameters() if not weight.requires_grad}
    assert dtypes & {torch.uint8, torch.int8}
    result = train_and_report(prepared, Console(file=io.StringIO()))
    assert result.new_task_loss.after != result.new_task_loss.before
    stored = ModelConfig(path=str(folder), load_in_4bit=True)
    assert prepared.fingerprint == base_fingerprint(load_model(as_stored(stored))[0])
    going_on = {"out": str(tmp_path / "next"), "method.name": method, "method.start_from": str(result.saved)}
    assert prepare_run(load_config(None, small, {**flags, **going_on})).trainable_weights == prepared.trainable_weights
