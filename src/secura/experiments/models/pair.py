"""A base model and what was made of it, one of them ready at a time.

An adapter is put onto the base that is already loaded: the base answers with the adapter
switched off, the tuned model with it merged, as it would be exported. Where the tuned model
is a whole model, the two take turns in memory.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.errors import BaseMismatchError, ConfigError
from secura.evaluation.causal_model import Model
from secura.evaluation.merged import merged_for_scoring
from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER
from secura.experiments.models.base_record import BaseFingerprint, base_fingerprint, check_base
from secura.experiments.models.loading import check_model, load_model, model_source
from secura.experiments.models.weight_files import check_weight_file
from secura.experiments.settings.run import ModelConfig

BUNDLED = "bundled"
"""The word that names the bundled model."""


@dataclass(frozen=True, kw_only=True)
class ReadyModel:
    """A model that can be asked."""

    model: Model
    """The model, in the state it is to be scored in."""
    tokenizer: PreTrainedTokenizerBase
    """The tokenizer it is asked with."""
    fingerprint: str
    """Checksum of its weights; of the base's alone where it is a base with an adapter."""
    merged: bool = False
    """Whether an adapter is merged into it."""

    @property
    def arithmetic(self) -> str:
        """Type of the weights and kind of device: scores may differ between two of them."""
        return f"{self.model.dtype} on {self.model.device.type}"


@dataclass(kw_only=True)
class ModelPair:
    """The two models of a comparison. Only one of its contexts may be open at a time."""

    base_path: str | None
    """Folder or hub id of the base; None is the bundled model."""
    tuned_path: str
    """Folder of an adapter or of a model, or hub id of a model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the weights are loaded as; auto is as they are stored."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about the two."""
    _held: tuple[str, PreTrainedModel, PreTrainedTokenizerBase, BaseFingerprint] | None = None
    _adapted: PeftModel | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether the tuned model is the base with an adapter."""
        return (Path(self.tuned_path) / "adapter_config.json").is_file()

    def check(self) -> None:
        """Refuse a tuned model that could not be loaded, before the base is loaded, let alone asked.

        Raises:
            ConfigError: if there is no such model, or a file of it is damaged.
        """
        weights = Path(self.tuned_path) / SAFETENSORS_WEIGHTS_NAME
        if not self.is_adapter:
            check_model(self.tuned_path)
        elif weights.is_file():  # PEFT reads other formats too, and speaks of those itself
            check_weight_file(weights)

    @contextmanager
    def base(self) -> Iterator[ReadyModel]:
        """The base model.

        Raises:
            ConfigError: if the base cannot be loaded.
            BaseMismatchError: if the adapter was made for another base.
        """
        if not self.is_adapter:
            model, tokenizer, fingerprint = self._load("base", self.base_path)
            yield ReadyModel(model=model, tokenizer=tokenizer, fingerprint=fingerprint.exact)
            return
        adapted, tokenizer, fingerprint = self._adapter_on_base()
        with adapted.disable_adapter():
            yield ReadyModel(model=adapted, tokenizer=tokenizer, fingerprint=fingerprint.exact)

    @contextmanager
    def tuned(self) -> Iterator[ReadyModel]:
        """The tuned model, an adapter merged where its method can be."""
        if not self.is_adapter:
            model, tokenizer, fingerprint = self._load("tuned", self.tuned_path)
            yield ReadyModel(model=model, tokenizer=tokenizer, fingerprint=fingerprint.exact)
            return
        adapted, tokenizer, fingerprint = self._adapter_on_base()
        with merged_for_scoring(adapted) as merged:
            yield ReadyModel(model=adapted, tokenizer=tokenizer, fingerprint=fingerprint.exact, merged=merged)

    @contextmanager
    def unmerged(self) -> Iterator[ReadyModel]:
        """The tuned model, an adapter beside the weights as it was trained."""
        if not self.is_adapter:
            with self.tuned() as ready:
                yield ready
            return
        adapted, tokenizer, fingerprint = self._adapter_on_base()
        yield ReadyModel(model=adapted, tokenizer=tokenizer, fingerprint=fingerprint.exact)

    def _adapter_on_base(self) -> tuple[PeftModel, PreTrainedTokenizerBase, BaseFingerprint]:
        """The base with the adapter on it, from the start: an adapter that does not fit costs no compute."""
        model, tokenizer, fingerprint = self._load("base", self.base_path)
        if self._adapted is None:
            self._adapted = _with_adapter(model, Path(self.tuned_path), fingerprint, self.base_path, self.notes)
        return self._adapted, tokenizer, fingerprint

    def _load(self, which: str, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, BaseFingerprint]:
        if self._held is None or self._held[0] != which:
            self._held = None  # before the next one is loaded, or both would be in memory
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            model, tokenizer = load_model(ModelConfig(path=path, dtype=self.dtype))
            self._held = (which, model, tokenizer, base_fingerprint(model))
        return self._held[1:]


def model_pair(base: str, tuned: str) -> ModelPair:
    """Name the two models of a comparison; nothing is loaded yet.

    Args:
        base: folder, GGUF file or hub id, or the word `bundled`.
        tuned: folder of an adapter of any PEFT method, of a whole model, or of a run of
            `secura train`; or the GGUF file or hub id of a whole model.

    Raises:
        ConfigError: if a folder holds neither, or the base is itself an adapter.
    """
    base_path = None if base == BUNDLED else base
    if base_path is not None and (Path(base_path) / "adapter_config.json").is_file():
        raise ConfigError(f"the base {base} holds an adapter; name the model it was made for, or {BUNDLED}.")
    folder = Path(tuned)
    if folder.is_file() and folder.suffix != ".gguf":
        raise ConfigError(f"{tuned} is a file; name the folder of an adapter or of a model.")
    if folder.is_dir() and not _loadable(folder):
        # A run's own folder, as `secura train` leaves it.
        inside = [folder / name for name in (ADAPTER_FOLDER, MODEL_FOLDER) if _loadable(folder / name)]
        if not inside:
            raise ConfigError(
                f"{tuned} holds neither adapter_config.json nor config.json; "
                "name the folder of an adapter or of a model, such as RUN/adapter."
            )
        folder = inside[0]
    elif not folder.exists() and (tuned.startswith((".", "/", "~")) or tuned.count("/") > 1):
        raise ConfigError(f"{tuned}: no such folder; name that of an adapter or of a model, such as RUN/adapter.")
    return ModelPair(base_path=base_path, tuned_path=str(folder) if folder.exists() else tuned)


def _loadable(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))


def _with_adapter(
    model: PreTrainedModel, folder: Path, fingerprint: BaseFingerprint, base_path: str | None, notes: list[str]
) -> PeftModel:
    import secura.adapters  # noqa: F401 - so that PEFT knows our methods

    base_name = base_path or BUNDLED
    doubt = check_base(folder, fingerprint, model_source(ModelConfig(path=base_path)))
    if doubt is not None:
        notes.append(f"{doubt}; it is compared with {base_name}")
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()
    except BaseMismatchError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise BaseMismatchError(f"the adapter in {folder} does not fit {base_name}: {reason}") from problem
