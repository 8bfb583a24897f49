"""Writing what was learned: an adapter or a whole model, with its tokenizer and the base that it belongs to."""

from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secura.adapters.corda import save_as_lora
from secura.evaluation.scoring import Model
from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER
from secura.experiments.models.base_record import BASE_RECORD
from secura.whole_files import write_json


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
