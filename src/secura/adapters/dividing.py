"""A model that training divides among processes: what must be known of it before, and what is saved of it after.

Only what an adapter trains and holds is gathered, one tensor at a time.
"""

from pathlib import Path

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from secura.adapters.secura.layer import SecuraLayer
from secura.adapters.sharding import gathered, is_sharded

Model = PreTrainedModel | PeftModel


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
