"""A base model and what was made of it, one of them ready at a time.

An adapter is put onto the base that is already loaded: the base answers with the adapter
switched off, the tuned model with it merged, as it would be exported. Where the tuned model
is a whole model, the two take turns in memory; both are held for a point between them alone.
"""

import gc
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.adapters.base_guard import BaseGuard
from secura.adapters.dial import draw_back_, scale_, scaled, values_to_be_trained
from secura.checksums import file_checksum
from secura.errors import BaseMismatchError, ConfigError, InputError
from secura.evaluation.causal_model import Model
from secura.evaluation.merged import merged_for_scoring
from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER
from secura.experiments.models.adapter_files import check_adapter_files, incomplete_refused, read_adapter_config
from secura.experiments.models.base_record import BaseFingerprint, base_fingerprint, base_record, check_base
from secura.experiments.models.loading import check_model, load_model, model_source
from secura.experiments.settings.run import ModelConfig
from secura.export.dequantized import Dequantized, dequantize_, is_quantized

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
    adapter: str | None = None
    """Checksum of the files of the adapter that it is to be scored with."""

    @property
    def arithmetic(self) -> str:
        """Type of the weights and kind of device: scores may differ between two of them."""
        return f"{self.model.dtype} on {self.model.device.type}"


@dataclass(frozen=True, kw_only=True)
class AdapterOnBase:
    """An adapter on its base, with what is written beside it."""

    model: PeftModel
    """Both."""
    tokenizer: PreTrainedTokenizerBase
    """The base's tokenizer."""
    record: dict[str, str]
    """Which base it belongs to."""
    base_values: dict[str, Tensor] | None
    """The base's own biases, where the adapter brings others."""


@dataclass(kw_only=True)
class ModelPair:
    """The two models of a comparison. Only one of its contexts may be open at a time."""

    base_path: str | None
    """Folder or hub id of the base; None is the bundled model."""
    tuned_path: str
    """Folder of an adapter or of a model, or hub id of a model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the weights are loaded as; auto is as they are stored."""
    dequantize: bool = False
    """Whether a model that is stored quantized is taken as the plain one that it computes with."""
    dequantized: Dequantized | None = None
    """What that took, once a model has been loaded that was quantized."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about the two."""
    _wrote_to: str | None = None
    """The first weight of the base that loading the adapter changed."""
    _held: tuple[str, PreTrainedModel, PreTrainedTokenizerBase, BaseFingerprint] | None = None
    _adapted: PeftModel | None = None
    _base_values: dict[str, Tensor] | None = None
    """The base's own biases, where the adapter brings others."""

    @property
    def is_adapter(self) -> bool:
        """Whether the tuned model is the base with an adapter."""
        return (Path(self.tuned_path) / "adapter_config.json").is_file()

    @property
    def written_from(self) -> str | None:
        """What the weights of an export come from besides an adapter: the base, or the whole model; None is bundled."""
        return self.base_path if self.is_adapter else self.tuned_path

    def check(self) -> None:
        """Refuse a tuned model that could not be loaded, before the base is loaded, let alone asked.

        Raises:
            ConfigError: if there is no such model, or a file of it is damaged.
        """
        if self.is_adapter:
            check_adapter_files(Path(self.tuned_path))
        else:
            check_model(self.tuned_path)

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
        if self._wrote_to is not None:
            del adapted
            model, tokenizer, fingerprint = self._load("base apart", self.base_path)
            yield ReadyModel(model=model, tokenizer=tokenizer, fingerprint=fingerprint.exact)
            return
        # Switched off, an adapter leaves its biases in the base; at 0 of what it learned it leaves none.
        off = scaled(adapted, 0.0, base_values=self._base_values) if self._base_values else adapted.disable_adapter()
        with off:
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
            yield ReadyModel(
                model=adapted,
                tokenizer=tokenizer,
                fingerprint=fingerprint.exact,
                merged=merged,
                adapter=self._checksum_of_files,
            )

    @contextmanager
    def at(self, scale: float) -> Iterator[ReadyModel]:
        """The model with what it learned scaled by a number: 0 is the base, 1 the tuned model.

        Its `fingerprint` is that of the base, of what was learned and of the number together.

        Raises:
            ConfigError: if the change cannot be scaled.
        """
        if self.is_adapter:
            adapted, tokenizer, fingerprint = self._adapter_on_base()
            self._refuse_to_scale()
            point = _digest(fingerprint.exact, self._checksum_of_files, repr(float(scale)))
            with scaled(adapted, scale, base_values=self._base_values) as merged:
                if merged:
                    yield ReadyModel(model=adapted, tokenizer=tokenizer, fingerprint=point, merged=True)
                    return
                with merged_for_scoring(adapted) as merged:
                    yield ReadyModel(model=adapted, tokenizer=tokenizer, fingerprint=point, merged=merged)
            return
        base, _, fingerprint = self._load("base", self.base_path)
        # Loaded anew for each point: what is overwritten here is the only copy of it in memory.
        model, tokenizer, own = self._read(self.tuned_path)
        point = _digest(fingerprint.exact, own.exact, repr(float(scale)))
        draw_back_(model, base.state_dict(), scale)
        yield ReadyModel(model=model, tokenizer=tokenizer, fingerprint=point)

    def _refuse_to_scale(self) -> None:
        if self._wrote_to is not None:
            raise ConfigError(
                f"the adapter in {self.tuned_path} changes weights of the base itself, {self._wrote_to} first, so no "
                "scale of it gives the base again; save it with save_embedding_layers=False."
            )

    def adapter(self) -> AdapterOnBase:
        """The adapter on its base, to be written at another point."""
        adapted, tokenizer, fingerprint = self._adapter_on_base()
        self._refuse_to_scale()
        record = base_record(ModelConfig(path=self.base_path), fingerprint)
        return AdapterOnBase(model=adapted, tokenizer=tokenizer, record=record, base_values=self._base_values)

    @cached_property
    def _checksum_of_files(self) -> str:
        """Of an adapter, by its settings and its weights."""
        folder = Path(self.tuned_path)
        files = [path for path in sorted(folder.iterdir()) if path.name.startswith(("adapter_config", "adapter_model"))]
        return _digest(*map(file_checksum, files))

    @contextmanager
    def unmerged(self) -> Iterator[ReadyModel]:
        """The tuned model, an adapter beside the weights as it was trained."""
        if not self.is_adapter:
            with self.tuned() as ready:
                yield ready
            return
        adapted, tokenizer, fingerprint = self._adapter_on_base()
        yield ReadyModel(model=adapted, tokenizer=tokenizer, fingerprint=fingerprint.exact)

    @contextmanager
    def to_be_written(self, scale: float) -> Iterator[tuple[ReadyModel, Mapping[str, float]]]:
        """The tuned model at a point of the dial, an adapter beside the weights and scaled for good.

        Yields:
            The model, and the layers that are still to be drawn back; see `secura.adapters.dial.scale_`.

        Raises:
            ConfigError: if the change cannot be scaled.
        """
        if not self.is_adapter:
            with self.tuned() if scale == 1 else self.at(scale) as ready:
                yield ready, {}
            return
        with self.unmerged() as ready:
            if scale == 1:
                yield ready, {}
                return
            self._refuse_to_scale()
            yield ready, scale_(cast(PeftModel, ready.model), scale, base_values=self._base_values)

    def _adapter_on_base(self) -> tuple[PeftModel, PreTrainedTokenizerBase, BaseFingerprint]:
        """The base with the adapter on it, from the start: an adapter that does not fit costs no compute."""
        model, tokenizer, fingerprint = self._load("base", self.base_path)
        if self._adapted is None:
            self._base_values = values_to_be_trained(model) if _trains_biases(Path(self.tuned_path)) else None
            guard, is_first = BaseGuard.of(model), self._wrote_to is None
            notes = self.notes if is_first else []
            self._adapted = _with_adapter(model, Path(self.tuned_path), fingerprint, self.base_path, notes)
            # Biases are known to be trained, and are put back.
            self._wrote_to = guard.first_changed(self._adapted, but=self._base_values or ())
            if self._wrote_to is not None:
                notes.append(
                    f"the adapter changes weights of the base itself, {self._wrote_to} first, so the base was loaded "
                    "apart to be asked; to switch this adapter off does not bring the base back"
                )
        return self._adapted, tokenizer, fingerprint

    def _load(self, which: str, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, BaseFingerprint]:
        if self._held is None or self._held[0] != which:
            self._held = self._adapted = None  # before the next one is loaded, or both would be in memory
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._held = (which, *self._read(path))
        return self._held[1:]

    def _read(self, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, BaseFingerprint]:
        model, tokenizer = load_model(ModelConfig(path=path, dtype=self.dtype))
        fingerprint = base_fingerprint(model)
        if self.dequantize and is_quantized(model):
            model, self.dequantized = dequantize_(model)
        return model, tokenizer, fingerprint


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


def _trains_biases(folder: Path) -> bool:
    """Whether an adapter brings biases of its own in place of the base's."""
    return read_adapter_config(folder).get("bias", "none") not in ("none", None, False)


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


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
    check_adapter_files(folder)
    try:
        with incomplete_refused():
            return PeftModel.from_pretrained(model, str(folder)).eval()
    except InputError:
        raise
    except Exception as problem:  # PEFT raises whatever a file that is no adapter leads to
        reason = " ".join(str(problem).split())[:200]
        raise BaseMismatchError(f"the adapter in {folder} does not fit {base_name}: {reason}") from problem
