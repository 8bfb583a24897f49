"""One run of `secura verify-export`: is what is shipped what was tested?

Four things are compared: the weights, tensor by tensor; what a file declares, such as its chat
template and the tokens that end an answer; greedy answers to the same prompts, with the divergence
at each token; and scores on the same questions: what was not to be lost, and, of a run of ours, the
rows that it held out. A GGUF file answers through llama.cpp, as it will be served; a LoRA and a merged
model answer through vLLM too, where that is installed.

What is written ships beside the model, so it holds no prompt.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from secura.checksums import file_checksum
from secura.errors import ConfigError, InputError
from secura.evaluation.causal_model import Model
from secura.evaluation.llama_cpp import INSTALL, LlamaCpp, LlamaCppSettings, llama_cpp_is_installed
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.parity import TIE_NATS, Answered, Ask, Parity, ask_model, compare_answers, end_ids
from secura.evaluation.provenance import provenance
from secura.evaluation.task_score import TaskScore
from secura.evaluation.vllm_engine import Vllm, VllmSettings, vllm_is_installed
from secura.experiments.asking import AskedTask, ask
from secura.experiments.dial.own_run import held_out_rows, own_run
from secura.experiments.export import (
    EXPORT_FILE,
    GGUF_FILE,
    GGUF_LORA_FILE,
    Form,
    keep_tasks,
    retention_tasks,
    tokenizer_of,
)
from secura.experiments.forget.tasks import tasks_of_rows
from secura.experiments.models.base_record import read_json_object
from secura.experiments.models.loading import load_model, loaded_from, quantization_of
from secura.experiments.models.pair import ModelPair, ReadyModel, model_pair
from secura.experiments.settings.run import ModelConfig
from secura.export.gguf_model import write_gguf
from secura.export.lora import DEFAULT_LIMIT, SERVED_RANKS
from secura.export.merged import merged_model
from secura.export.tuned_weights import DrawnBack
from secura.export.written_weights import WeightCheck, check_gguf, check_gguf_lora, check_lora, check_merged
from secura.tasks.prompting import prompt_text, prompt_tokens
from secura.tasks.question import Question
from secura.training.library_output import silence_libraries
from secura.whole_files import write_json

VERIFICATION_FILE = "verification.json"

_KL = {"float32": 1e-4, "f32": 1e-4, "float16": 1e-3, "f16": 1e-3, "bfloat16": 2e-2, "bf16": 2e-2, "q8_0": 2e-2}
_KL |= {"q5_1": 0.1, "q4_0": 0.3}
"""Mean divergence that is let pass, in nats per token, by how weights are stored."""

_VLLM_KL = 2e-2
"""What is let pass through vLLM at least, whose kernels sum in 16 bits here and there, and in another order."""

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
    vllm: bool | None = None
    """Whether a LoRA and a merged model answer through vLLM too; None is where it is installed."""
    max_lost: float | None = None
    """Share of a layer's change that a LoRA may lose; None is what its record says, or 0.01."""
    trust_tasks: bool = False
    """Whether Python files that the run's config.yaml names as tasks may be run."""

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.max_tokens < 1:
            raise ConfigError(
                f"--prompts is {self.prompts} and --max-tokens {self.max_tokens}; both must be at least 1."
            )
        if self.vllm and not vllm_is_installed():
            raise ConfigError("--vllm asks through vLLM, which is not installed; run pip install vllm.")


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
    gain_tuned: float | None = None
    """What the test gained over the base, in a task that was learned; None in others."""
    gain_export: float | None = None
    """The same of the export."""
    kept_tuned: float | None = None
    """Share of what the base has right that was right in the test; None where right and wrong do not apply, or in a
    task that was learned."""
    kept_export: float | None = None
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
    dequantized: bool = False
    """Whether what was tested had a quantized base, which computes in its own way."""
    vllm: Parity | None = None
    """The answers through vLLM; None where it was not asked."""
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
        loses = is_lora and any(check.error > 0 for check in self.weights)
        return self.stored_as in _EXACT and not loses and not self.dequantized

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
        allowed = max(self.max_kl, _VLLM_KL)
        if self.vllm is not None and self.vllm.mean_kl > allowed:
            found.append(
                f"mean divergence through vLLM is {self.vllm.mean_kl:.2g} nats per token, allowed is {allowed:.2g}"
            )
        return found


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
    if form in ("lora", "gguf-lora") and not pair.is_adapter:
        raise ConfigError(f"{settings.adapter} is a whole model, of which {settings.export} cannot be a LoRA.")
    is_quantized = quantization_of(ModelConfig(path=pair.written_from)) is not None
    lost = settings.max_lost if settings.max_lost is not None else _lost_on_purpose(record)
    with ExitStack() as stack:
        plain = replace(pair, dequantize=True) if is_quantized else pair
        tested = _opened(stack, plain, record)
        with console.status("comparing weights"):
            weights = _check_weights(settings.export, form, tested, lost)
        if is_quantized:  # which answers as it was tested
            stack.close()
            tested = _opened(stack, pair, record)
        tokenizer = tested.tokenizer
        notes: list[str] = []
        learned = _learned(settings, tested, notes)
        asked = [*learned, *_kept_tasks(settings, pair, tokenizer, settings.count)] if settings.count else []
        texts, prompts = _prompts(
            [*learned, *_kept_tasks(settings, pair, tokenizer, settings.prompts)], tokenizer, settings.prompts
        )
        reference, of_base, of_tested = _ask_tested(
            settings, form, tested, prompts, asked, console, is_quantized=is_quantized
        )
        ends = end_ids(tested.model, tokenizer)
        config: Any = tested.model.config
        dtype = str(tested.model.dtype).removeprefix("torch.")
    del tested
    if settings.count and not pair.is_adapter:
        with model_pair(settings.base, settings.base).base() as base:
            of_base = _scores(base, asked, "the base", console)
    parity, declared, exported = _ask_export(
        settings, form, pair, tokenizer, ends, texts, prompts, reference, asked, int(config.vocab_size), console
    )
    notes = [*pair.notes, *notes, *_drowned(weights)]
    found = Verification(
        form=form,
        stored_as=stored_as,
        weights=weights,
        declared=declared,
        parity=parity,
        max_kl=settings.max_kl if settings.max_kl is not None else _KL.get(stored_as, 0.3),
        dequantized=is_quantized,
        vllm=None if is_gguf else _ask_vllm(settings, form, pair, ends, prompts, reference, dtype, notes, console),
        scores=_together(asked, len(learned), of_base, of_tested, exported) if settings.count and exported else [],
        notes=notes,
    )
    found.file = _folder(settings.export) / VERIFICATION_FILE
    write_json(found.file, _as_json(settings, found))
    return found


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """What was tested, at the point and with the tasks that were exported."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    drawn_back: DrawnBack
    fingerprint: str

    @property
    def ready(self) -> ReadyModel:
        return ReadyModel(model=self.model, tokenizer=self.tokenizer, fingerprint=self.fingerprint)


def _opened(stack: ExitStack, pair: ModelPair, record: dict[str, Any]) -> _Tested:
    ready, drawn_back = stack.enter_context(pair.to_be_written(float(record.get("scale", 1.0))))
    keep_tasks(ready.model, record.get("tasks", ()))
    return _Tested(
        model=ready.model,
        tokenizer=tokenizer_of(pair, ready.tokenizer),
        drawn_back=drawn_back,
        fingerprint=ready.fingerprint,
    )


def _learned(settings: VerifySettings, tested: _Tested, notes: list[str]) -> list[AskedTask]:
    """The rows that a run of ours held out, as tasks; none where something else was tested."""
    run = own_run(settings.adapter)
    if run is None:
        return []
    try:
        rows = held_out_rows(run, tested.model, tested.tokenizer, trust_tasks=settings.trust_tasks)
    except InputError as problem:
        notes.append(f"the gain cannot be measured: {problem}")
        return []
    return tasks_of_rows(rows, str(run), tested.tokenizer, count=settings.count or settings.prompts, seed=0)


def _kept_tasks(
    settings: VerifySettings, pair: ModelPair, tokenizer: PreTrainedTokenizerBase, count: int
) -> list[AskedTask]:
    return retention_tasks(settings.questions, bundled=pair.base_path is None, count=count, tokenizer=tokenizer)


# ---------------------------------------------------------------------- what it is


def _folder(export: Path) -> Path:
    return export.parent if export.is_file() else export


def _recognised(export: Path) -> tuple[Form, str, dict[str, Any]]:
    """Form, how weights are stored, and the record of an export."""
    record = read_json_object(_folder(export) / EXPORT_FILE) or {}
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
        dtype = (read_json_object(_folder(export) / "config.json") or {}).get("dtype")
        stored = str(dtype) if form == "merged" and dtype else "unknown"
    return form, str(stored), record


def _lost_on_purpose(record: dict[str, Any]) -> float:
    recorded = max((layer["lost"] for layer in record.get("layers", ())), default=0.0)
    return max(DEFAULT_LIMIT, 1.01 * recorded)


def _gguf_of(export: Path, name: str) -> Path:
    return export if export.is_file() else export / name


def _check_weights(export: Path, form: Form, tested: _Tested, lost: float) -> list[WeightCheck]:
    model, drawn_back = tested.model, tested.drawn_back
    if form == "lora":
        return check_lora(export, cast(PeftModel, model), drawn_back, lost)
    if form == "gguf-lora":
        return check_gguf_lora(_gguf_of(export, GGUF_LORA_FILE), cast(PeftModel, model), drawn_back, lost)
    if form == "merged":
        return check_merged(export, model, drawn_back)
    return check_gguf(_gguf_of(export, GGUF_FILE), model, drawn_back)


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
    tested: _Tested,
    prompts: Sequence[Sequence[int]],
    asked: Sequence[AskedTask],
    console: Console,
    *,
    is_quantized: bool,
) -> tuple[list[Answered], list[TaskScore], list[TaskScore]]:
    """Answers of what was tested, and scores of the base, where an adapter can be switched off, and of it."""
    of_base: list[TaskScore] = []
    model = tested.model
    if settings.count and isinstance(model, PeftModel):
        with model.disable_adapter():
            of_base = _scores(tested.ready, asked, "the base", console)
    ends = end_ids(model, tested.tokenizer)
    with ExitStack() as stack:
        if isinstance(model, PeftModel) and not is_quantized:
            if form in ("gguf", "gguf-lora", "ollama") or tested.drawn_back:
                wide = None if form == "merged" else torch.float32
                model = merged_model(model, adapted_dtype=wide, drawn_back=tested.drawn_back)
                model.eval()
            elif form == "merged":
                stack.enter_context(merged_for_scoring(model))
        with console.status("asking what was tested"):
            answer = ask_model(model, ends=ends, max_tokens=settings.max_tokens)
            answers = [answer(prompt, None) for prompt in prompts]
        ready = replace(tested.ready, model=model)
        of_tested = _scores(ready, asked, "what was tested", console) if settings.count else []
    return answers, of_base, of_tested


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
    console: Console,
) -> tuple[Parity, list[str], list[TaskScore]]:
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
        with console.status("asking the export"):
            of_export = ask_model(model, ends=end_ids(model, own), max_tokens=settings.max_tokens)
            parity = compare_answers(prompts, reference, of_export)
        ready = ReadyModel(model=model, tokenizer=own, fingerprint="")
        return parity, declared, _scores(ready, asked, "the export", console) if settings.count else []
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
        with console.status("asking the export through llama.cpp"):
            parity = compare_answers(prompts, reference, through_llama_cpp)
        declared = [] if form == "gguf-lora" else _declared_in_gguf(file, tokenizer, ends)
        declared += _read_otherwise(served.tokens_of, tokenizer, texts)
    if form == "gguf-lora" or not settings.count:
        return parity, declared, []
    unpacked, own = load_model(ModelConfig(path=str(file), dtype="float32"))
    ready = ReadyModel(model=unpacked, tokenizer=own, fingerprint="")
    return parity, declared, _scores(ready, asked, "the export", console)


def _ask_vllm(
    settings: VerifySettings,
    form: Form,
    pair: ModelPair,
    ends: Sequence[int],
    prompts: Sequence[Sequence[int]],
    reference: Sequence[Answered],
    dtype: str,
    notes: list[str],
    console: Console,
) -> Parity | None:
    """Parity through vLLM; None where it is not to be asked, or does not serve such an adapter."""
    if not (vllm_is_installed() if settings.vllm is None else settings.vllm):
        return None
    context = max(len(prompt) for prompt in prompts) + settings.max_tokens + 8
    loaded = VllmSettings(model=str(settings.export), context=context)
    if form == "lora":
        config = read_json_object(settings.export / "adapter_config.json") or {}
        if config.get("modules_to_save") or config.get("lora_bias") or config["r"] not in SERVED_RANKS:
            notes.append("vLLM was not asked: it serves no LoRA of this rank, with a bias or with modules saved whole")
            return None
        loaded = VllmSettings(
            model=loaded_from(ModelConfig(path=pair.base_path)),
            lora=settings.export,
            lora_rank=config["r"],
            dtype=dtype,
            context=context,
        )
    with console.status("asking the export through vLLM"), Vllm(loaded) as served:

        def answer(prompt: Sequence[int], path: Sequence[int] | None) -> Answered:
            return served.answer(prompt, path, max_tokens=settings.max_tokens, ends=ends)

        return compare_answers(prompts, reference, answer)


def prompt_like(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text, none put around it."""
    ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(ids)


def _scores(ready: ReadyModel, asked: Sequence[AskedTask], which: str, console: Console) -> list[TaskScore]:
    found: list[TaskScore] = []
    ask(ready, asked, which, console, lambda _, score: found.append(score))
    return found


def _together(
    asked: Sequence[AskedTask],
    learned: int,
    of_base: Sequence[TaskScore],
    of_tested: Sequence[TaskScore],
    exported: Sequence[TaskScore],
) -> list[TaskScores]:
    """The scores of all three; the first tasks are those that were learned."""
    found = []
    for place, (one, base, tuned, export) in enumerate(zip(asked, of_base, of_tested, exported, strict=True)):
        is_learned = place < learned
        found.append(
            TaskScores(
                task=one.task.name,
                base=base.value,
                tuned=tuned.value,
                export=export.value,
                gain_tuned=tuned.value - base.value if is_learned else None,
                gain_export=export.value - base.value if is_learned else None,
                kept_tuned=None if is_learned else _kept(base, tuned),
                kept_export=None if is_learned else _kept(base, export),
            )
        )
    return found


def _kept(base: TaskScore, other: TaskScore) -> float | None:
    pairs = [(before.correct, bool(after.correct)) for before, after in zip(base.items, other.items, strict=True)]
    known = [after for before, after in pairs if before]
    return sum(known) / len(known) if known and all(before is not None for before, _ in pairs) else None


# ---------------------------------------------------------------------- what is declared


def _declared(
    own: PreTrainedTokenizerBase, own_ends: Sequence[int], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> list[str]:
    found = []
    if own.chat_template != tokenizer.chat_template:
        found.append("the chat template is different")
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
        found.append("the chat template is different")
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
        theirs, ours = tokens_of(text), prompt_like(tokenizer, text)
        if theirs != ours:
            pairs = zip(theirs, ours, strict=False)
            at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(ours)))
            return [f"prompt {index} is read in other tokens from token {at} on"]
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
        "answers": _parity_as_json(found.parity) | {"allowed_mean_kl_nats": found.max_kl},
        "vllm": None if found.vllm is None else _parity_as_json(found.vllm),
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


def _parity_as_json(parity: Parity) -> dict[str, Any]:
    return {
        "prompts": len(parity.prompts),
        "same_tokens": parity.same,
        "parted_at_a_tie": parity.ties,
        "mean_kl_nats": parity.mean_kl,
        "largest_kl_nats": parity.largest_kl,
        "nats_per_token": list(parity.nats),
    }
