"""Writing what was learned: an adapter or a whole model, with its tokenizer and the base that it belongs to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secura.adapters.corda import save_as_lora
from secura.adapters.dial import Scale, layers_without_closed_form, merged_state, scaled
from secura.errors import ConfigError
from secura.evaluation.scoring import Model
from secura.experiments.files import ADAPTER_FOLDER, BASE_RECORD, MODEL_FOLDER
from secura.export.merged import save_merged
from secura.whole_files import write_folder, write_json


def result_folder(folder: Path, model: Model) -> Path:
    """Where a user looks for the result: `adapter/`, or `model/` for a whole model."""
    return folder / (ADAPTER_FOLDER if isinstance(model, PeftModel) else MODEL_FOLDER)


def save_result(
    path: Path,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    record: Mapping[str, str],
    state: dict[str, Tensor] | None = None,
    corda_start: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model into an empty folder.

    Args:
        path: the folder.
        model: with its adapter, or whole.
        tokenizer: what it is asked with.
        record: of the base model that an adapter belongs to; see `base_record`.
        state: the tensors to write, where the model itself is divided among processes.
        corda_start: for corda, its adapter before training.
    """
    if corda_start is not None and isinstance(model, PeftModel):
        save_as_lora(model, corda_start, path)
    else:
        model.save_pretrained(str(path), state_dict=state)
    tokenizer.save_pretrained(str(path))
    if isinstance(model, PeftModel):
        write_json(path / BASE_RECORD, record)


def check_can_be_saved(model: PeftModel) -> None:
    """Refuse an adapter that is none any more at another point of the dial.

    Raises:
        ConfigError: naming the first layer, and the way out.
    """
    layers = layers_without_closed_form(model)
    if layers:
        kind = model.peft_config[next(iter(model.peft_config))].peft_type
        raise ConfigError(
            f"a part of what {getattr(kind, 'value', kind)} has learned is no adapter of that kind again "
            f"({len(layers)} layers, the first {layers[0]}); write it as a whole model with --merged."
        )


def save_scaled(
    folder: Path,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    scale: Scale,
    *,
    record: Mapping[str, str],
    base_values: Mapping[str, Tensor] | None = None,
    merged: bool = False,
) -> None:
    """Write what an adapter learned scaled by a number: as an adapter of the same kind, or as a whole model.

    The point is the one that `scaled` makes, to the bit: its values are what is written. The model is as before
    afterwards.

    Args:
        folder: written whole or not at all; what was there is replaced.
        model: with its adapter.
        tokenizer: what it is asked with.
        scale: one number, or one a layer.
        record: of the base model; see `base_record`.
        base_values: the base's own biases, where the adapter has trained them.
        merged: whether to write a whole model, which needs no base.

    Raises:
        ConfigError: if the adapter's method has no values that give the point, and `merged` is not set.
    """
    if not merged:
        check_can_be_saved(model)

    with scaled(model, scale, merged=merged, base_values=base_values):
        if merged:
            write_merged(folder, model, tokenizer)
        else:
            write_folder(folder, lambda path: save_result(path, model, tokenizer, record=record))


def write_merged(folder: Path, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a whole model, while its adapter stands in the base weights; whole or not at all."""
    inner: Any = model.get_base_model()
    write_folder(folder, lambda path: save_merged(inner, tokenizer, path, dtype=None, state=merged_state(model)))
