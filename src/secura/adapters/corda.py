"""CorDA, knowledge-preserving mode: PEFT's LoRA, started from what the calibration texts use least.

PEFT takes the components out of the base weight and trains them in the adapter, so the adapter
alone fits no other copy of the base. `save_as_lora` writes the change as a plain LoRA of twice
the rank, which fits the base as it was.

Source: CorDA, arXiv:2406.05223; PEFT's `preprocess_corda`, which reads one text at a time.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora.corda import preprocess_corda, target_modules
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from secura.errors import ConfigError

CALIBRATION_TEXTS = 256
"""At most this many texts are read; the paper finds as many enough for a width of 4096."""


def name_targets(model: PreTrainedModel, config: LoraConfig) -> dict[str, Tensor]:
    """Write out `config.target_modules`, which PEFT looks up later than CorDA needs it.

    Returns:
        The weights that will be adapted, by the name of their layer.

    Raises:
        ValueError: if PEFT knows no target modules for this kind of model.
    """
    if config.target_modules is None:
        known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type)
        if known is None:
            raise ValueError(f"no target modules are known for {model.config.model_type} models.")
        config.target_modules = list(known)
    _maybe_include_all_linear_layers(config, model)
    targets: Any = target_modules(model, config)  # PEFT types the pairs it yields as modules
    return {name: module.weight for name, module in targets}


def calibrate(model: PreTrainedModel, config: LoraConfig, texts: Sequence[Sequence[int]]) -> None:
    """Read the texts, in tokens, and leave beside each layer what CorDA starts from.

    Raises:
        ConfigError: if there are no texts, or the layers' inputs are degenerate.
    """
    if not texts:
        raise ConfigError("method corda needs texts of what must be kept; name a file with method.calibration.")

    def read() -> None:
        for tokens in texts[:CALIBRATION_TEXTS]:
            model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)

    try:
        preprocess_corda(model, config, run_model=read)
    except (RuntimeError, ValueError) as problem:
        raise ConfigError(f"method corda cannot use these calibration texts: {problem}") from problem


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """A copy of the adapter as it is now, for `save_as_lora`."""
    return {name: value.detach().cpu().clone() for name, value in get_peft_model_state_dict(model).items()}


def save_as_lora(model: PeftModel, start: Mapping[str, Tensor], folder: Path) -> None:
    """Save what training changed since `start` as a LoRA of twice the rank for the base as it was."""
    config = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    with tempfile.TemporaryDirectory() as place:
        save_file(
            {name: value.contiguous() for name, value in start.items()}, str(Path(place) / "adapter_model.safetensors")
        )
        corda_config, config.corda_config = config.corda_config, None
        try:
            model.save_pretrained(str(folder), path_initial_model_for_weight_conversion=place)
        finally:
            config.corda_config = corda_config
