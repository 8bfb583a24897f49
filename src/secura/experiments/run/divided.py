"""A model whose weights are divided among processes: made ready, asked, and saved.

Only what an adapter trains and holds is gathered, one tensor at a time. Questions are asked
of a whole model: the main process loads the base once more, with the adapter as it was saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.integrations import deepspeed as integration

from secura.adapters.secura.layer import SecuraLayer
from secura.adapters.sharding import gathered, is_sharded
from secura.evaluation.scoring import Model
from secura.experiments.models.loading import load_model
from secura.experiments.settings.run import ModelConfig
from secura.training.processes import computes_on_cpu, divides_weights


def get_ready_to_divide(model: Model, resume_from: Path | None) -> None:
    """Take fingerprints, and what a checkpoint holds besides trained weights.

    Once divided, one process alone saves an adapter, when it cannot gather a weight. FSDP2's
    own checkpoints hold what is trained only, and so no folds.
    """
    if not isinstance(model, PeftModel):
        return
    if resume_from is not None:
        model.load_adapter(str(resume_from), str(model.active_adapter), is_trainable=True)
    for module in model.modules():
        if isinstance(module, SecuraLayer):
            module.fingerprint()


def whole_state(model: Model) -> dict[str, Tensor] | None:
    """What is to be saved of a divided model, whole and on the CPU; None where it is whole already.

    Of an adapter, what it holds; of a model trained in full, every weight. All processes
    take part.
    """
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return None
    state = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not isinstance(model, PeftModel) or parameter.requires_grad or _is_of_adapter(name, model):
            with gathered(parameter) as tensor:
                state[name] = tensor.to("cpu", copy=True)
    return state


def _is_of_adapter(name: str, model: PeftModel) -> bool:
    prefix = str(model.base_model.prefix)
    return any(part.startswith(prefix) for part in name.split(".")) and ".base_layer." not in name


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
