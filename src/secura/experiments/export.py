"""One run of `secura export`: a model leaves training in another form, whole or not at all.

What cannot be exact is measured first and refused above a limit; a form that would answer
otherwise than the model does, such as a GGUF of an unknown kind, is refused before its weights are computed.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from peft import PeftModel
from rich.console import Console
from rich.status import Status
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secura.adapters.dial import scaled
from secura.adapters.secura.folding import folded_tasks, undo
from secura.errors import ConfigError, FoldError
from secura.evaluation.parity import end_ids
from secura.evaluation.provenance import provenance
from secura.experiments.asking import AskedTask, ask
from secura.experiments.forget.tasks import asked_tasks
from secura.experiments.models.base_record import BASE_RECORD, read_base_record, read_json_object
from secura.experiments.models.loading import load_tokenizer, model_source, quantization_of
from secura.experiments.models.pair import BUNDLED, ModelPair, model_pair
from secura.experiments.settings.run import ModelConfig
from secura.export.gguf_lora import write_gguf_lora
from secura.export.gguf_model import check_kind, write_gguf
from secura.export.gguf_shapes import shape_of
from secura.export.lora import DEFAULT_LIMIT, SERVED_RANKS, Lora, as_lora, save_lora
from secura.export.merged import merged_model, save_merged
from secura.export.ollama import chat_parts, modelfile
from secura.export.tuned_weights import DrawnBack
from secura.one_writer import one_writer_of
from secura.training.library_output import silence_libraries
from secura.whole_files import write_folder, write_json

Form = Literal["lora", "merged", "gguf", "gguf-lora", "ollama"]

EXPORT_FILE = "export.json"
GGUF_FILE = "model.gguf"
GGUF_LORA_FILE = "lora.gguf"

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_GGUF_KINDS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What leaves, and in which form."""

    source: str
    """Folder of a run, of an adapter of any PEFT method, or of a model; or hub id of a model."""
    to: Form
    """The form."""
    base: str | None = None
    """The base of an adapter; None is the one it names itself."""
    dtype: str | None = None
    """Of the weights; None is that of the base, and float32 for a LoRA."""
    quantize: str | None = None
    """Kind of a GGUF's matrices, such as q8_0."""
    scale: float = 1.0
    """The point of the dial: 0 is the base, 1 all that was learned; see `secura.adapters.dial`."""
    tasks: tuple[str, ...] = ()
    """The folded tasks that are kept; empty is all."""
    rank: int | None = None
    """Of a LoRA that cannot be exact; None is the lowest that loses no more than `limit`."""
    limit: float = DEFAULT_LIMIT
    """Share of a layer's change that a LoRA may lose."""
    accept_loss: bool = False
    """Write a LoRA that loses more."""
    questions: tuple[str, ...] = ()
    """Tasks that are asked where a LoRA is not exact; empty is the world's knowledge, or everyday ones."""
    count: int = 50
    """Questions of each task."""
    dequantize: bool = False
    """Whether a base that is stored quantized is written out plainly."""
    out: Path | None = None
    """Folder to write; None is a new one beside the source."""

    def __post_init__(self) -> None:
        if self.to not in get_args(Form):
            raise ConfigError(f"--to is {self.to!r}; known: {', '.join(get_args(Form))}.")
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ConfigError(f"--dtype is {self.dtype!r}; known: {', '.join(_DTYPES)}.")
        if self.quantize is not None:
            if self.to not in ("gguf", "ollama"):
                raise ConfigError(f"--quantize is for --to gguf and --to ollama, not for --to {self.to}; leave it out.")
            if self.dtype is not None:
                raise ConfigError("--dtype and --quantize both say how weights are stored; give one of them.")
            check_kind(self.quantize)
        if self.to == "gguf-lora" and self.dtype == "bfloat16":
            raise ConfigError("--to gguf-lora stores float32 or float16, not bfloat16.")
        if not 0 <= self.scale < float("inf"):
            raise ConfigError(
                f"--scale is {self.scale:g}; 0 is the base, 1 is all that was learned, and larger numbers amplify it."
            )
        if self.dequantize and self.to in ("lora", "gguf-lora"):
            raise ConfigError(
                f"--to {self.to} contains nothing of the base, so --dequantize has no effect; leave it out."
            )
        if self.count < 1:
            raise ConfigError(f"--count is {self.count}; give a number of questions per task, at least 1.")


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One task, asked of the model and of the form that is not quite it."""

    task: str
    """Its name."""
    tuned: float
    """Score of the model."""
    export: float
    """Score of the form."""


@dataclass(kw_only=True)
class ExportResult:
    """What was written."""

    folder: Path
    """Where."""
    form: Form
    """As what."""
    lora: Lora | None = None
    """Its layers, where it is a LoRA."""
    effects: list[Effect] = field(default_factory=list)
    """Scores, where the form is not exact."""
    notes: list[str] = field(default_factory=list)
    """What the user should know."""


def export(
    settings: ExportSettings, console: Console, on_measured: Callable[[Lora, Sequence[Effect]], None] | None = None
) -> ExportResult:
    """Write a model in another form.

    Args:
        settings: what to write.
        console: for progress.
        on_measured: told what a LoRA that is not exact loses, before it is written.

    Raises:
        InputError: for a source, a folder or a setting that cannot be used, and for a LoRA that
            loses more than it may.
        MergeError: if no single weight equals the adapter.
    """
    silence_libraries()
    folder = _folder(settings)
    with one_writer_of(folder):
        return _export(settings, folder, console, on_measured)


def _export(
    settings: ExportSettings,
    folder: Path,
    console: Console,
    on_measured: Callable[[Lora, Sequence[Effect]], None] | None,
) -> ExportResult:
    pair = open_source(settings.source, settings.base)
    pair.check()
    if settings.to in ("lora", "gguf-lora") and not pair.is_adapter:
        raise ConfigError(f"{settings.source} is a whole model, so there is no LoRA in it; use --to merged or gguf.")
    if settings.scale != 1 and not pair.is_adapter and pair.base_path == pair.tuned_path:
        raise ConfigError(
            f"--scale is {settings.scale:g}, but {settings.source} does not say which base it was made of; name it "
            "with --base."
        )
    _refuse_quantized(settings, pair)
    # A LoRA holds nothing of the base, so what it is made of costs the user nothing.
    pair.dequantize = settings.dequantize or settings.to in ("lora", "gguf-lora")
    result = ExportResult(folder=folder, form=settings.to, notes=pair.notes)
    with pair.to_be_written(settings.scale) as (ready, drawn_back):
        model, tokenizer = ready.model, tokenizer_of(pair, ready.tokenizer)
        keep_tasks(model, settings.tasks)
        config: Any = model.config
        if settings.to in ("gguf", "gguf-lora", "ollama"):
            shape_of(config)
        record = _record(settings, pair, model, ready.fingerprint)
        if settings.to in ("lora", "gguf-lora"):
            _write_lora(settings, pair, model, drawn_back, tokenizer, record, result, console, on_measured)
        else:
            if pair.dequantized is not None:
                result.notes.append(pair.dequantized.cost)
            _write_whole(settings, model, drawn_back, tokenizer, record, result, console)
    return result


def open_source(source: str, base: str | None) -> ModelPair:
    """The model to export, with the base that it names; a whole model that names none is taken as its own."""
    pair = model_pair(BUNDLED, model_source(ModelConfig()) if source == BUNDLED else source)
    if pair.is_adapter:
        return model_pair(base or base_of(Path(pair.tuned_path)), source)
    recorded = Path(pair.tuned_path).parent / BASE_RECORD  # of a run that has trained all weights
    if base is None and recorded.is_file():
        base = str(read_base_record(recorded.parent)["model"])
    return (
        ModelPair(base_path=pair.tuned_path, tuned_path=pair.tuned_path) if base is None else model_pair(base, source)
    )


def base_of(adapter: Path) -> str:
    """The base that an adapter names.

    Raises:
        ConfigError: if it names none.
    """
    if (adapter / BASE_RECORD).is_file():
        return str(read_base_record(adapter)["model"])
    named = (read_json_object(adapter / "adapter_config.json") or {}).get("base_model_name_or_path")
    if not named:
        raise ConfigError(f"{adapter} does not say which base it was made for; name the base with --base.")
    return str(named)


def tokenizer_of(pair: ModelPair, of_base: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside an adapter, which may carry a chat template of its own; or else the base's."""
    folder = Path(pair.tuned_path)
    has_own = pair.is_adapter and (folder / "tokenizer_config.json").is_file()
    return load_tokenizer(str(folder)) if has_own else of_base


def keep_tasks(model: PreTrainedModel | PeftModel, names: Sequence[str]) -> None:
    """Take every folded task out but those named; without names, none.

    Raises:
        ConfigError: if nothing was ever folded under a name.
    """
    if not names:
        return
    try:
        known = folded_tasks(cast(PeftModel, model))
    except FoldError as problem:
        raise ConfigError(f"--tasks keeps what was folded by name, but {problem}") from problem
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--tasks {', '.join(unknown)}: never folded; folded: {', '.join(known) or 'none'}.")
    for name in known:
        if name not in names:
            undo(model, name)


def retention_tasks(
    names: Sequence[str], *, bundled: bool, count: int, tokenizer: PreTrainedTokenizerBase
) -> list[AskedTask]:
    """What is asked of a form and of the model: the named tasks, or what needs no download."""
    wanted = names or (() if bundled else ("everyday",))
    return asked_tasks(wanted, retain=None, bundled=bundled, data=None, count=count, seed=0, tokenizer=tokenizer)


# ---------------------------------------------------------------------- forms


def _as_text_in(status: Status) -> Callable[[str], None]:
    """Shows what is worked on; as text, since rich would read markup in the name of a tensor."""
    return lambda said: status.update(Text(said))


def _write_whole(
    settings: ExportSettings,
    model: PreTrainedModel | PeftModel,
    drawn_back: DrawnBack,
    tokenizer: PreTrainedTokenizerBase,
    record: dict[str, Any],
    result: ExportResult,
    console: Console,
) -> None:
    own = _NAMES.get(model.dtype, "float32")
    dtype = settings.dtype or own
    parts = chat_parts(tokenizer) if settings.to == "ollama" else None
    with console.status("merging") as status:
        if settings.to == "merged":
            record["dtype"] = dtype
            merged = merged_model(model, adapted_dtype=_DTYPES[dtype], drawn_back=drawn_back)

            def fill(folder: Path) -> None:
                save_merged(merged, tokenizer, folder, dtype=_DTYPES[dtype])
                write_json(folder / EXPORT_FILE, record)

            write_folder(result.folder, fill)
            return
        kind = record["dtype"] = settings.quantize or _GGUF_KINDS[dtype]
        # In float32, so that what llama.cpp's kinds round is the change itself.
        merged = merged_model(model, adapted_dtype=torch.float32, drawn_back=drawn_back)
        name = Path(settings.source).name

        def fill_gguf(folder: Path) -> None:
            write_gguf(folder / GGUF_FILE, merged, tokenizer, kind=kind, name=name, on_tensor=_as_text_in(status))
            if settings.to == "ollama":
                stops = [tokenizer.decode([end]) for end in end_ids(merged, tokenizer)]
                text = modelfile(GGUF_FILE, parts, [str(stop) for stop in stops])
                (folder / "Modelfile").write_text(text, encoding="utf-8")
            write_json(folder / EXPORT_FILE, record)

        write_folder(result.folder, fill_gguf)


def _write_lora(
    settings: ExportSettings,
    pair: ModelPair,
    model: PreTrainedModel | PeftModel,
    drawn_back: DrawnBack,
    tokenizer: PreTrainedTokenizerBase,
    record: dict[str, Any],
    result: ExportResult,
    console: Console,
    on_measured: Callable[[Lora, Sequence[Effect]], None] | None,
) -> None:
    adapted = cast(PeftModel, model)
    with console.status("measuring") as status:
        lora = as_lora(
            adapted,
            rank=settings.rank,
            limit=settings.limit,
            drawn_back=drawn_back,
            on_layer=_as_text_in(status),
        )
    result.lora = lora
    base, config = adapted.get_base_model(), adapted.config
    module_names = [name for name, _ in base.named_modules()]
    dtype = settings.dtype or "float32"
    record |= {"dtype": dtype, "exact": lora.exact, "rank": lora.rank}
    record["layers"] = [
        {"name": layer.name, "rank": layer.rank, "exact": layer.exact, "lost": layer.lost} for layer in lora.layers
    ]
    result.notes.extend(_remarks(lora))
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place)
        own_base = adapted.active_peft_config.base_model_name_or_path or pair.base_path or BUNDLED
        save_lora(lora, trial, base=own_base, module_names=module_names, dtype=_DTYPES[dtype])
        tokenizer.save_pretrained(place)
        if not lora.exact:
            # What the dial could not set on the adapter is set on the weights for as long as they are asked.
            with scaled(adapted, drawn_back) if drawn_back else nullcontext():
                result.effects = _effects(settings, pair, trial, tokenizer, console)
            record["scores"] = [asdict(effect) for effect in result.effects]
        if not lora.exact and on_measured is not None:
            on_measured(lora, result.effects)
        if lora.over_limit and not settings.accept_loss:
            worst = lora.worst
            raise ConfigError(
                f"a LoRA of rank {lora.rank} loses {worst.lost:.1%} of the change of {worst.name}, above the limit of "
                f"{settings.limit:.1%}; raise --rank, use --to merged, or add --accept-loss to write it all the same."
            )

        def fill(folder: Path) -> None:
            if settings.to == "gguf-lora":
                write_gguf_lora(
                    folder / GGUF_LORA_FILE, lora, config, name=Path(settings.source).name, half=dtype == "float16"
                )
            else:
                for file in trial.iterdir():
                    (folder / file.name).write_bytes(file.read_bytes())
                if (own_record := read_json_object(Path(pair.tuned_path) / BASE_RECORD)) is not None:
                    write_json(folder / BASE_RECORD, own_record)
            write_json(folder / EXPORT_FILE, record)

        write_folder(result.folder, fill)


def _effects(
    settings: ExportSettings, pair: ModelPair, lora: Path, tokenizer: PreTrainedTokenizerBase, console: Console
) -> list[Effect]:
    """What the model and its LoRA score; the base is loaded again, since PEFT holds one kind of adapter at a time."""
    asked = retention_tasks(
        settings.questions, bundled=pair.base_path is None, count=settings.count, tokenizer=tokenizer
    )
    scores: list[list[float]] = []
    as_exported = ModelPair(base_path=pair.base_path, tuned_path=str(lora), dequantize=pair.dequantize)
    for each, which in ((pair, "the model"), (as_exported, "its LoRA")):
        found: list[float] = []
        with each.tuned() as ready:
            ask(ready, asked, which, console, lambda _, score, found=found: found.append(score.value))
        scores.append(found)
    return [
        Effect(task=one.task.name, tuned=tuned, export=exported)
        for one, tuned, exported in zip(asked, *scores, strict=True)
    ]


def _remarks(lora: Lora) -> list[str]:
    own = max(layer.rank for layer in lora.layers)
    remarks = []
    if lora.rank > own:
        remarks.append(f"rank {own} is padded with zeros to {lora.rank}, the next that vLLM serves")
    if lora.rank not in SERVED_RANKS:
        remarks.append(f"vLLM serves ranks up to {SERVED_RANKS[-1]}, and this one is of rank {lora.rank}")
    if lora.whole_modules:
        remarks.append(f"{', '.join(sorted(lora.whole_modules))} are saved whole, which vLLM does not serve")
    if any(layer.bias is not None for layer in lora.layers):
        remarks.append("a trained bias is saved, which vLLM does not serve")
    return remarks


# ---------------------------------------------------------------------- records and checks


def _folder(settings: ExportSettings) -> Path:
    """The user's folder, or a new one beside the source; one that holds something else is left alone."""
    if settings.out is None:
        source = Path(settings.source)
        home = source if source.is_dir() else Path("runs") / source.name
        folder = home.with_name(f"{home.name}-{settings.to}")
    else:
        folder = settings.out
    if folder.is_file():
        raise ConfigError(f"--out {folder} is a file; name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / EXPORT_FILE).is_file():
        raise ConfigError(f"--out {folder} holds something that is not an export; name another folder.")
    return folder


def _refuse_quantized(settings: ExportSettings, pair: ModelPair) -> None:
    """Refuse to write out a base that is stored quantized, before it is loaded, unless that was asked for."""
    method = quantization_of(ModelConfig(path=pair.written_from))
    if method is not None and settings.to not in ("lora", "gguf-lora") and not settings.dequantize:
        raise ConfigError(
            f"the weights are stored quantized ({method}), and an export would carry their rounding in several times "
            "the space; name the base in 16 or 32 bits with --base, or add --dequantize to write them out all the same."
        )


def _record(
    settings: ExportSettings, pair: ModelPair, model: PreTrainedModel | PeftModel, fingerprint: str
) -> dict[str, Any]:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "form": settings.to,
        "base": (pair.base_path or BUNDLED) if pair.is_adapter else None,
        "base_fingerprint": fingerprint if pair.is_adapter else None,
        "method": _method(model),
        "scale": settings.scale,
        "dequantized": None if pair.dequantized is None else asdict(pair.dequantized),
        "tasks": list(settings.tasks),
        "provenance": provenance(),
    }


def _method(model: PreTrainedModel | PeftModel) -> str | None:
    """PEFT's name of an adapter's method."""
    if not isinstance(model, PeftModel):
        return None
    kind: Any = model.active_peft_config.peft_type
    return str(kind.value)
