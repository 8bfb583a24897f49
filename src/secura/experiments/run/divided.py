"""Questions are asked of a whole model: where weights are divided, one process loads the base once more."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.integrations import deepspeed as integration

from secura.evaluation.scoring import Model
from secura.experiments.models.loading import load_model
from secura.experiments.settings.run import ModelConfig
from secura.training.processes import computes_on_cpu, divides_weights


@contextmanager
def whole_model(model: Model, base: ModelConfig, saved: Path | None) -> Iterator[Model]:
    """A model that can be asked: `model` itself or, where that is divided, the base or what was `saved` of it."""
    if not divides_weights():
        yield model
        return
    is_adapter = isinstance(model, PeftModel)
    device = torch.device("cpu" if computes_on_cpu() else "cuda")
    with _undivided():
        if saved is not None and not is_adapter:
            whole: Model = AutoModelForCausalLM.from_pretrained(saved)
        else:
            whole, _ = load_model(base)
            if saved is not None:
                whole = PeftModel.from_pretrained(whole, str(saved))
        yield whole.to(device)  # type: ignore[call-arg]  # transformers wraps nn.Module.to
    del whole
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _undivided() -> Iterator[None]:
    """Without ZeRO-3, under which every load would divide what it loads, by all processes together."""
    config = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = config
