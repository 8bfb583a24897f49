"""One run of `secura verify-export`: is what is shipped what was tested?

Four things are compared: the weights, tensor by tensor; what a file declares, such as its chat
template and the tokens that end an answer; greedy answers to the same prompts, with the divergence
at each token; and scores on the same questions. A GGUF file answers through llama.cpp, as
it will be served.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from secura.checksums import file_checksum
from secura.errors import ConfigError
from secura.evaluation.batch_size import BatchSize
from secura.evaluation.causal_model import Model
from secura.evaluation.llama_cpp import INSTALL, LlamaCpp, LlamaCppSettings, llama_cpp_is_installed
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.parity import TIE_NATS, Answered, Ask, Parity, ask_model, compare_answers, end_ids
from secura.evaluation.provenance import provenance
from secura.evaluation.score_task import score_task
from secura.experiments.asking import AskedTask
from secura.experiments.export import (
    EXPORT_FILE,
    GGUF_FILE,
    GGUF_LORA_FILE,
    Form,
    keep_tasks,
    retention_tasks,
    tokenizer_of,
)
from secura.experiments.models.base_record import read_json
from secura.experiments.models.loading import load_model
from secura.experiments.models.pair import ModelPair, model_pair
from secura.experiments.settings.run import ModelConfig
from secura.export.gguf_model import write_gguf
from secura.export.lora import DEFAULT_LIMIT
from secura.export.merged import merged_model
from secura.export.written_weights import WeightCheck, check_gguf, check_gguf_lora, check_lora, check_merged
from secura.tasks.prompting import prompt_text, prompt_tokens
from secura.tasks.question import Question
from secura.training.library_output import silence_libraries
from secura.whole_files import write_json

VERIFICATION_FILE = "verification.json"

_KL = {"float32": 1e-4, "f32": 1e-4, "float16": 1e-3, "f16": 1e-3, "bfloat16": 2e-2, "bf16": 2e-2, "q8_0": 2e-2}
_KL |= {"q5_1": 0.1, "q4_0": 0.3}
"""Mean divergence that is let pass, in nats per token, by how weights are stored."""

_EXACT = ("float32", "f32")
"""Stored like this, every prompt has to be answered with the same tokens."""


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """What to compare, and what to let pass."""

    base: str
    """The base, as for `secura forget`."""
    adapter: str
    """The run, adapter or model that was tested."""
    export: Path
    """Folder of `secura export`, or a GGUF file."""
    prompts: int = 50
    """Prompts that both answer."""
    max_tokens: int = 16
    """Tokens of an answer, at most."""
    questions: tuple[str, ...] = ()
    """Tasks that prompts are drawn from and that are scored; empty is knowledge, or everyday ones."""
    count: int = 20
    """Questions of each task that are scored; 0 scores none."""
    max_kl: float | None = None
    """Mean divergence that is let pass, in nats per token; None goes by how weights are stored."""
    max_lost: float | None = None
    """Share of a layer's change that a LoRA may lose; None is what its record says, or 0.01."""

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.max_tokens < 1:
            raise ConfigError(f"--prompts is {self.prompts} and --max-tokens {self.max_tokens}; both count from 1.")


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """One task, asked of all three."""

    task: str
    """Its name."""
    base: float
    """Score of the base."""
    tuned: float
    """Score of what was tested."""
    export: float
    """Score of the export."""
    kept_tuned: float | None
    """Share of what the base has right that was right in the test; None where right and wrong do not apply."""
    kept_export: float | None
    """The same of the export."""


@dataclass(kw_only=True)
class Verification:
    """What was found."""

    form: Form
    """What kind of export."""
    stored_as: str
    """How its weights are stored."""
    weights: list[WeightCheck]
    """Every tensor."""
    declared: list[str]
    """What the export declares otherwise, each in a sentence."""
    parity: Parity
    """The answers."""
    max_kl: float
    """What mean divergence was let pass."""
    scores: list[TaskScores] = field(default_factory=list)
    """By task."""
    notes: list[str] = field(default_factory=list)
    """What the user should know."""
    file: Path | None = None
    """Where it is written."""

    @property
    def is_exact(self) -> bool:
        """Whether every prompt has to be answered with the same tokens."""
        is_lora = self.form in ("lora", "gguf-lora")
        return self.stored_as in _EXACT and not (is_lora and any(check.error > 0 for check in self.weights))

    @property
    def failures(self) -> list[str]:
        """Every reason not to ship it, the clearest first."""
        found = [
            f"{check.name} differs by {check.error:.2g}, allowed is {check.allowed:.2g}"
            for check in sorted(self.weights, key=lambda check: -check.error)
            if not check.passed
        ]
        found += self.declared
        parts = [prompt for prompt in self.parity.prompts if prompt.differs_at is not None]
        untied = len(parts) - self.parity.ties
        if self.is_exact and untied:
            first = next(one for one in parts if one.gap_nats is None or one.gap_nats > TIE_NATS)
            found.append(
                f"{untied} of {len(self.parity.prompts)} prompts are answered otherwise, prompt {first.prompt} from "
                f"token {first.differs_at} on"
            )
        if self.parity.mean_kl > self.max_kl:
            found.append(f"mean divergence is {self.parity.mean_kl:.2g} nats per token, allowed is {self.max_kl:.2g}")
        return found


@dataclass(frozen=True, kw_only=True)
class _Score:
    value: float
    right: tuple[bool | None, ...]


def verify_export(settings: VerifySettings, console: Console) -> Verification:
    """Compare an export with the model it was made of, and write what was found beside it.

    Raises:
        InputError: for a model or an export that cannot be used.
        MergeError: if no single weight equals the adapter.
    """
    silence_libraries()
    form, stored_as, record = _recognised(settings.export)
    if form in ("gguf", "gguf-lora", "ollama") and not llama_cpp_is_installed():
        raise ConfigError(f"GGUF files are asked through xllamacpp, which is not installed; run {INSTALL}.")
    is_gguf = form not in ("lora", "merged")
    pair = model_pair(settings.base, settings.adapter)
    pair.dtype = "float32" if is_gguf else "auto"
    pair.check()
    scale = float(record.get("scale", 1.0))
    lost = settings.max_lost if settings.max_lost is not None else _lost_on_purpose(record)
    with pair.unmerged() as ready:
        tested, tokenizer = ready.model, tokenizer_of(pair, ready.tokenizer)
        keep_tasks(tested, record.get("tasks", ()))
        if form in ("lora", "gguf-lora") and not isinstance(tested, PeftModel):
            raise ConfigError(f"{settings.adapter} is a whole model, of which {settings.export} cannot be a LoRA.")
        with console.status("comparing weights"):
            weights = _check_weights(settings.export, form, tested, scale, lost)
        asked = retention_tasks(
            settings.questions, bundled=pair.base_path is None, count=settings.count or 20, tokenizer=tokenizer
        )
        texts, prompts = _prompts(asked, tokenizer, settings.prompts)
        with console.status("asking what was tested"):
            reference, scores = _ask_tested(settings, form, tested, tokenizer, prompts, asked, scale)
            ends = end_ids(tested, tokenizer)
        config: Any = tested.config
    del tested, ready
    with console.status("asking the export"):
        parity, declared, exported = _ask_export(
            settings, form, pair, tokenizer, ends, texts, prompts, reference, asked, int(config.vocab_size)
        )
    found = Verification(
        form=form,
        stored_as=stored_as,
        weights=weights,
        declared=declared,
        parity=parity,
        max_kl=settings.max_kl if settings.max_kl is not None else _KL.get(stored_as, 0.3),
        scores=_together(asked, scores, exported) if settings.count and exported else [],
        notes=[*pair.notes, *(_drowned(weights))],
    )
    found.file = _folder(settings.export) / VERIFICATION_FILE
    write_json(found.file, _as_json(settings, found))
    return found


# ---------------------------------------------------------------------- what it is


def _folder(export: Path) -> Path:
    return export.parent if export.is_file() else export


def _recognised(export: Path) -> tuple[Form, str, dict[str, Any]]:
    """Form, how weights are stored, and the record of an export."""
    record = read_json(_folder(export) / EXPORT_FILE) or {}
    kinds: list[tuple[str, Form]] = [
        ("adapter_config.json", "lora"),
        (GGUF_LORA_FILE, "gguf-lora"),
        (GGUF_FILE, "gguf"),
        ("config.json", "merged"),
    ]
    form: Form | None = record.get("form")
    if form is None and export.suffix == ".gguf" and export.is_file():
        form = "gguf"
    if form is None:
        form = next((kind for file, kind in kinds if (export / file).is_file()), None)
    if form is None:
        raise ConfigError(f"{export} holds no export; name a folder that secura export wrote, or a GGUF file.")
    stored = record.get("dtype")
    if stored is None:
        dtype = (read_json(_folder(export) / "config.json") or {}).get("dtype")
        stored = str(dtype) if form == "merged" and dtype else "unknown"
    return form, str(stored), record


def _lost_on_purpose(record: dict[str, Any]) -> float:
    recorded = max((layer["lost"] for layer in record.get("layers", ())), default=0.0)
    return max(DEFAULT_LIMIT, 1.01 * recorded)


def _gguf_of(export: Path, name: str) -> Path:
    return export if export.is_file() else export / name


def _check_weights(export: Path, form: Form, tested: Model, scale: float, lost: float) -> list[WeightCheck]:
    if form == "lora":
        return check_lora(export, cast(PeftModel, tested), scale, lost)
    if form == "gguf-lora":
        return check_gguf_lora(_gguf_of(export, GGUF_LORA_FILE), cast(PeftModel, tested), scale, lost)
    if form == "merged":
        return check_merged(export, tested, scale)
    return check_gguf(_gguf_of(export, GGUF_FILE), tested, scale)


def _drowned(weights: Sequence[WeightCheck]) -> list[str]:
    """A word on layers in which storage makes a larger error than training made a change."""
    noisy = [check for check in weights if check.noise_over_signal is not None and check.noise_over_signal >= 1]
    learned = [check for check in weights if check.noise_over_signal is not None]
    if not noisy:
        return []
    worst = max(noisy, key=lambda check: check.noise_over_signal or 0.0)
    return [
        f"in {len(noisy)} of {len(learned)} adapted layers the rounding is larger than what was learned, up to "
        f"{worst.noise_over_signal:.1f} times in {worst.name}"
    ]


# ---------------------------------------------------------------------- asking


def _prompts(
    asked: Sequence[AskedTask], tokenizer: PreTrainedTokenizerBase, count: int
) -> tuple[list[str], list[list[int]]]:
    """Prompts of the tasks in turn, each once, as texts and as tokens."""
    columns = [[item for item in one.items if isinstance(item, Question)] for one in asked]
    longest = max((len(column) for column in columns), default=0)
    turns = [column[row] for row in range(longest) for column in columns if row < len(column)]
    texts = list(dict.fromkeys(prompt_text(tokenizer, question.asked) for question in turns))[:count]
    by_text = {prompt_text(tokenizer, question.asked): prompt_tokens(tokenizer, question.asked) for question in turns}
    return texts, [by_text[text] for text in texts]


def _ask_tested(
    settings: VerifySettings,
    form: Form,
    tested: Model,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    asked: Sequence[AskedTask],
    scale: float,
) -> tuple[list[Answered], list[tuple[_Score, _Score]]]:
    """Answers of what was tested, and scores of the base and of it."""
    of_base: list[_Score] = []
    if settings.count and isinstance(tested, PeftModel):
        with tested.disable_adapter():
            of_base = _scores(tested, tokenizer, asked)
    ends = end_ids(tested, tokenizer)
    with ExitStack() as stack:
        model: Model = tested
        if isinstance(tested, PeftModel) and (form in ("gguf", "gguf-lora", "ollama") or scale != 1):
            model = merged_model(tested, adapted_dtype=torch.float32 if form != "merged" else None, scale=scale)
            model.eval()
        elif isinstance(tested, PeftModel) and form == "merged":
            stack.enter_context(merged_for_scoring(tested))
        ask = ask_model(model, ends=ends, max_tokens=settings.max_tokens)
        answers = [ask(prompt, None) for prompt in prompts]
        of_tested = _scores(model, tokenizer, asked) if settings.count else []
    return answers, list(zip(of_base or of_tested, of_tested, strict=True))


def _ask_export(
    settings: VerifySettings,
    form: Form,
    pair: ModelPair,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    texts: Sequence[str],
    prompts: Sequence[Sequence[int]],
    reference: Sequence[Answered],
    asked: Sequence[AskedTask],
    vocabulary: int,
) -> tuple[Parity, list[str], list[_Score]]:
    """Parity, what is declared otherwise, and scores."""
    if form in ("lora", "merged"):
        if form == "lora":
            loaded = ModelPair(base_path=pair.base_path, tuned_path=str(settings.export))
            with loaded.unmerged() as ready:
                model, own = ready.model, tokenizer_of(loaded, ready.tokenizer)
        else:
            model, own = load_model(ModelConfig(path=str(settings.export)))
        declared = _declared(own, end_ids(model, own), tokenizer, ends)
        declared += _read_otherwise(lambda text: prompt_like(own, text), tokenizer, texts)
        ask = ask_model(model, ends=end_ids(model, own), max_tokens=settings.max_tokens)
        parity = compare_answers(prompts, reference, ask)
        return parity, declared, _scores(model, own, asked) if settings.count else []
    with ExitStack() as stack:
        file = _gguf_of(settings.export, GGUF_LORA_FILE if form == "gguf-lora" else GGUF_FILE)
        base_file, lora = file, None
        if form == "gguf-lora":
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            base_file, lora = place / "base.gguf", file
            base, base_tokenizer = load_model(ModelConfig(path=pair.base_path, dtype="float32"))
            write_gguf(base_file, base, base_tokenizer, kind="f32", name="base")
            del base
        context = max(len(prompt) for prompt in prompts) + settings.max_tokens + 8
        served = stack.enter_context(LlamaCpp(LlamaCppSettings(model=base_file, lora=lora, context=context)))

        def answer(prompt: Sequence[int], path: Sequence[int] | None) -> Answered:
            return served.answer(prompt, path, max_tokens=settings.max_tokens, shown=min(vocabulary, 512))

        through_llama_cpp: Ask = answer
        parity = compare_answers(prompts, reference, through_llama_cpp)
        declared = [] if form == "gguf-lora" else _declared_in_gguf(file, tokenizer, ends)
        declared += _read_otherwise(served.tokens_of, tokenizer, texts)
    if form == "gguf-lora" or not settings.count:
        return parity, declared, []
    unpacked, own = load_model(ModelConfig(path=str(file), dtype="float32"))
    return parity, declared, _scores(unpacked, own, asked)


def prompt_like(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text, none put around it."""
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(ids)


def _scores(model: Model, tokenizer: PreTrainedTokenizerBase, asked: Sequence[AskedTask]) -> list[_Score]:
    size = BatchSize("auto", model.device)
    found = [score_task(model, tokenizer, one.task, one.items, batch_size=size) for one in asked]
    return [_Score(value=each.value, right=tuple(item.correct for item in each.items)) for each in found]


def _together(
    asked: Sequence[AskedTask], scores: Sequence[tuple[_Score, _Score]], exported: Sequence[_Score]
) -> list[TaskScores]:
    return [
        TaskScores(
            task=one.task.name,
            base=base.value,
            tuned=tuned.value,
            export=export.value,
            kept_tuned=_kept(base, tuned),
            kept_export=_kept(base, export),
        )
        for one, (base, tuned), export in zip(asked, scores, exported, strict=True)
    ]


def _kept(base: _Score, other: _Score) -> float | None:
    pairs = [(bool(before), bool(after)) for before, after in zip(base.right, other.right, strict=True)]
    known = [after for before, after in pairs if before]
    return sum(known) / len(known) if known and None not in base.right else None


# ---------------------------------------------------------------------- what is declared


def _declared(
    own: PreTrainedTokenizerBase, own_ends: Sequence[int], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> list[str]:
    found = []
    if own.chat_template != tokenizer.chat_template:
        found.append("the chat template is another one")
    if list(own_ends) != list(ends):
        found.append(f"answers end at tokens {list(own_ends)}, not at {list(ends)}")
    return found


def _declared_in_gguf(file: Path, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> list[str]:
    from gguf import GGUFReader

    reader = GGUFReader(file)

    def value(key: str) -> Any:
        found = reader.get_field(f"tokenizer.{key}")
        return None if found is None else found.contents()

    found = []
    if (value("chat_template") or None) != (tokenizer.chat_template or None):
        found.append("the chat template is another one")
    eos = value("ggml.eos_token_id")
    declared = [
        number for number in (eos, value("ggml.eot_token_id"), value("ggml.eom_token_id")) if number is not None
    ]
    if eos != tokenizer.eos_token_id:
        found.append(f"the end-of-text token is {eos}, not {tokenizer.eos_token_id}")
    missing = [end for end in ends if end not in declared]
    if missing:
        found.append(f"answers end at tokens {missing} too, which the file does not say")
    return found


def _read_otherwise(tokens_of: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    for index, text in enumerate(texts):
        if tokens_of(text) != prompt_like(tokenizer, text):
            return [f"prompt {index} is read in other tokens: {text[:60]!r}"]
    return []


# ---------------------------------------------------------------------- the record


def _as_json(settings: VerifySettings, found: Verification) -> dict[str, Any]:
    folder = _folder(settings.export)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != VERIFICATION_FILE]
    noise = [check.noise_over_signal for check in found.weights if check.noise_over_signal is not None]
    return {
        "passed": not found.failures,
        "failures": found.failures,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "form": found.form,
        "stored_as": found.stored_as,
        "files_sha256": {str(path.relative_to(folder)): file_checksum(path) for path in files},
        "weights": {
            "tensors": len(found.weights),
            "wrong": [check.name for check in found.weights if not check.passed],
            "largest_noise_over_signal": max(noise, default=None),
            "mean_noise_over_signal": sum(noise) / len(noise) if noise else None,
        },
        "answers": {
            "prompts": len(found.parity.prompts),
            "same_tokens": found.parity.same,
            "parted_at_a_tie": found.parity.ties,
            "mean_kl_nats": found.parity.mean_kl,
            "largest_kl_nats": found.parity.largest_kl,
            "allowed_mean_kl_nats": found.max_kl,
            "nats_per_token": list(found.parity.nats),
        },
        "scores": [asdict(each) for each in found.scores],
        "notes": found.notes,
        "settings": {
            "prompts": settings.prompts,
            "max_tokens": settings.max_tokens,
            "questions": list(settings.questions),
            "count": settings.count,
        },
        "provenance": provenance(),
    }
