from typing import Any

import pytest
from tiny_models import tiny_tokenizer

from secura import ConfigError
from secura.export.ollama import chat_parts, modelfile

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUMBERED = "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}\n{% endfor %}"


def tokenizer_with(template: str | None) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_is_put_together_as_the_tokenizer_writes_it() -> None:
    parts = chat_parts(tokenizer_with(CHATML))
    assert parts is not None
    assert parts.default_system == "Be kind."
    text = modelfile("model.gguf", parts, ["<|im_end|>"])
    assert text.startswith("FROM ./model.gguf\n")
    assert '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n{{ else if' in text
    assert 'SYSTEM """Be kind."""\nPARAMETER stop "<|im_end|>"\n' in text


def test_a_template_without_a_default_and_none_at_all() -> None:
    parts = chat_parts(tiny_tokenizer(chat=True))
    assert parts is not None
    assert parts.default_system is None
    assert parts.written([{"role": "user", "content": "Hi"}]) == "<|user|>Hi<|end|>\n<|assistant|>"
    assert chat_parts(tokenizer_with(None)) is None
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile("model.gguf", None, [])


def test_a_template_that_does_more_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be written for Ollama"):
        chat_parts(tokenizer_with(NUMBERED))
