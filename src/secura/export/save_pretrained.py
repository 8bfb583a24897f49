"""`PeftModel.save_pretrained(folder, as_lora=True)`: an adapter as a LoRA that stock tools load, where that is exact.

PEFT hands no argument of its own on to a method, and drops those it does not know, so its function is wrapped here.
Nothing else of ours is imported before it is needed: this is called while PEFT, and whatever imports it, still loads.
"""

import os
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from secura.errors import ConfigError

_MARK = "takes_as_lora"


def teach_save_pretrained() -> None:
    """Have `PeftModel.save_pretrained` take `as_lora`; harmless when called again."""
    stock = PeftModel.save_pretrained
    if hasattr(stock, _MARK):
        return

    @wraps(stock)
    def save_pretrained(
        self: PeftModel, save_directory: str | os.PathLike[str], *args: Any, as_lora: bool = False, **kwargs: Any
    ) -> None:
        if not as_lora:
            stock(self, save_directory, *args, **kwargs)  # type: ignore[arg-type]  # PEFT takes any path
        elif args:
            raise ConfigError("with as_lora=True, name every argument of save_pretrained.")
        else:
            _save_as_lora(self, Path(save_directory), **kwargs)

    setattr(save_pretrained, _MARK, True)
    PeftModel.save_pretrained = save_pretrained


def _save_as_lora(
    model: PeftModel,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    selected_adapters: Sequence[str] | None = None,
    is_main_process: bool = True,
    **others: Any,
) -> None:
    """Write the active adapter where PEFT would, as a LoRA.

    Args:
        model: a base with an adapter that is not merged.
        folder: made if it is not there; adapters of another name than `default` get one inside it.
        dtype: of the factors.
        selected_adapters: at most the active one.
        is_main_process: of several processes, the one that writes.
        others: nothing; what is named here is refused.

    Raises:
        ConfigError: if a LoRA would lose part of the change, or for an argument that means nothing here.
        MergeError: if no single weight equals the adapter.
    """
    from secura.export.lora import as_lora, save_lora
    from secura.export.tuned_weights import active_adapter

    if others:
        raise ConfigError(f"save_pretrained(as_lora=True) does not take {', '.join(sorted(others))}; leave it out.")
    name = active_adapter(model)
    if selected_adapters is not None and list(selected_adapters) != [name]:
        raise ConfigError(
            f"as_lora=True writes the active adapter, {name!r}, and not {list(selected_adapters)}; set_adapter first."
        )
    lora = as_lora(model)
    if not lora.exact:
        raise ConfigError(
            f"the change of {lora.worst.name} has full rank, so a LoRA would lose part of it; `secura export --to "
            "lora` says how much before it writes one, and `--to merged` loses nothing."
        )
    if not is_main_process:
        return
    folder = folder if name == "default" else folder / name
    folder.mkdir(parents=True, exist_ok=True)
    modules = [module for module, _ in model.get_base_model().named_modules()]
    save_lora(lora, folder, base=model.active_peft_config.base_model_name_or_path, module_names=modules, dtype=dtype)
