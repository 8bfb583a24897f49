"""The tiny pretrained model that comes inside the package."""

from importlib.resources import files
from pathlib import Path

from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast


def bundled_model_path() -> Path:
    """The folder with the bundled model and its tokenizer, as `from_pretrained` reads it."""
    return Path(str(files("secura.tasks.world"))) / "model"


def load_bundled_model() -> LlamaForCausalLM:
    """The bundled model in float32 on the CPU, ready to be scored or adapted."""
    return LlamaForCausalLM.from_pretrained(bundled_model_path()).eval()


def load_bundled_tokenizer() -> PreTrainedTokenizerFast:
    """The bundled model's tokenizer: ByteLevel BPE, so that any text encodes."""
    return AutoTokenizer.from_pretrained(bundled_model_path())
