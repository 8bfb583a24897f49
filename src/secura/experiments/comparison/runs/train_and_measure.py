"""What a run of a grid does, and what its record says of it: train, ask, and measure what the grid wants besides."""

import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from secura.adapters.secura.config import plain_peft_type
from secura.evaluation.forgetting_loss import mean_token_cross_entropy
from secura.evaluation.forgetting_text import fixed_text
from secura.evaluation.merged import merged_for_scoring
from secura.evaluation.provenance import provenance
from secura.evaluation.scoring import Model
from secura.evaluation.spectra import Spectrum, spectra
from secura.experiments.comparison.grid.config import CurveConfig
from secura.experiments.comparison.grid.grid_run import GridRun
from secura.experiments.comparison.runs.comparison_run import ComparisonRun
from secura.experiments.comparison.runs.curve import MeasureCurve
from secura.experiments.comparison.runs.record import Cost, RunRecord, SequenceRecord
from secura.experiments.files import ADAPTER_FOLDER, CONFIG_FILE, LOG_FILE, MODEL_FOLDER
from secura.experiments.models.loading import load_model
from secura.experiments.run.prepare import PreparedRun, prepare_run
from secura.experiments.run.questions import base_alone
from secura.experiments.run.train import train_and_report
from secura.experiments.sequence.matrix import SequenceScores
from secura.experiments.sequence.run import PreparedSequence, prepare_sequence, run_sequence
from secura.experiments.sequence.stages import load_served, load_stage, task_folder
from secura.experiments.settings.layers import config_from
from secura.experiments.settings.run import ModelConfig, RunConfig
from secura.experiments.settings.sequence import SequenceConfig
from secura.json_text import read_json
from secura.training.examples import Example
from secura.training.step_lines import StepLines, read_step_lines


def blank_record(declared: GridRun) -> RunRecord:
    """What is known of a run before it is carried out; a failure until it has succeeded."""
    return RunRecord(
        name=declared.name,
        grid=declared.grid,
        label=declared.label,
        model=declared.model,
        task=declared.task,
        seed=declared.seed,
        learning_rate=declared.learning_rate,
        status="failed",
        settings={"kind": declared.kind, "measure": list(declared.measure), **declared.settings},
        provenance={**provenance(), "decided_by": dict(declared.versions)},
    )


def train_and_measure(run: ComparisonRun, console: Console) -> RunRecord:
    """Carry out a run, going on with what an earlier attempt left in its folder; returns its record.

    Raises:
        SecuraError: if it cannot be carried out, or Ctrl-C stopped it.
    """
    declared, folder = run.declared, run.run_folder
    begun = (folder / CONFIG_FILE).is_file()
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)  # killed before it wrote what it is
    settings = {**declared.settings, "out": str(folder)}
    if declared.kind == "train":
        record = _train(declared, prepare_run(config_from(RunConfig, settings), resume=begun), console)
    else:
        record = _sequence(declared, prepare_sequence(config_from(SequenceConfig, settings)), console)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    return replace(record, status="success", provenance={**record.provenance, "resumed": begun})


# ---------------------------------------------------------------------- one task


def _train(declared: GridRun, run: PreparedRun[RunConfig], console: Console) -> RunRecord:
    _say_notes(run.notes, console)
    before = _text_loss(declared, run.model, run.tokenizer, trained=False)
    total = sum(weight.numel() for weight in run.model.parameters())
    curve = None if declared.curve is None else MeasureCurve(run, config_from(CurveConfig, declared.curve))
    result = train_and_report(run, console, [] if curve is None else [curve])
    if curve is not None:
        curve.measure_end()
    rows = _rows(run)
    return _record(
        declared,
        run.config.model,
        run.model,
        run.tokenizer,
        text_loss_before=before,
        logs=[run.folder / LOG_FILE],
        folder=run.folder,
        cost=Cost(
            trainable_weights=run.trainable_weights,
            total_weights=total,
            training_seconds=result.training_seconds,
            rows=rows,
            tokens=_tokens(run.task.examples, rows),
        ),
        gain=result.new_task.total if result.new_task.total.asked else None,
        gain_nats=(result.new_task_loss.before, result.new_task_loss.after),
        knowledge=result.retention.families,
        curve=[] if curve is None else curve.points,
    )


def _say_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(f"note: {note}", highlight=False)


def _rows(run: PreparedRun[RunConfig]) -> int:
    """Rows of all steps; the last batch of a pass over the data may be a smaller one."""
    training, count = run.config.training, len(run.task.examples)
    passes, batches = divmod(run.task.steps * training.gradient_accumulation, math.ceil(count / training.batch_size))
    return passes * count + batches * training.batch_size


def _tokens(examples: Sequence[Example], rows: int) -> int:
    return round(rows * statistics.fmean(len(example.tokens) for example in examples))


# ---------------------------------------------------------------------- tasks one after the other


def _sequence(declared: GridRun, sequence: PreparedSequence, console: Console) -> RunRecord:
    _say_notes(sequence.notes, console)
    run = sequence.run
    matrix = run_sequence(sequence, console, _say_stage(console))
    start = load_stage(run.config, run.folder, 0)
    before = _text_loss(declared, start.model, start.tokenizer, trained=False)
    trainable = sum(weight.numel() for weight in start.model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in start.model.parameters())
    del start  # before the next one is loaded
    served = load_served(run.config, run.folder, len(run.tasks))
    return _record(
        declared,
        run.config.model,
        served.model,
        served.tokenizer,
        text_loss_before=before,
        logs=[task_folder(run.folder, stage, name) / LOG_FILE for stage, name in enumerate(run.names, start=1)],
        folder=run.folder,
        cost=Cost(trainable_weights=trainable, total_weights=total),
        knowledge=matrix.knowledge_kept(len(run.tasks)),
        sequence=SequenceRecord(
            tasks=run.names,
            scores=[list(row) for row in matrix.task_matrix().scores],
            knowledge=[matrix.knowledge(stage) for stage in range(len(run.tasks) + 1)],
        ),
    )


def _say_stage(console: Console) -> Any:
    def say(matrix: SequenceScores, stage: int, seconds: float) -> None:
        name = matrix.tasks[stage - 1] if stage else "the base model"
        known = matrix.knowledge(stage)
        kept = "" if known is None else f", {known:.1%} of the knowledge questions right"
        console.print(f"{stage}/{len(matrix.tasks)} {name}: {seconds:.0f} s{kept}", highlight=False)

    return say


# ---------------------------------------------------------------------- what is measured besides


def _record(
    declared: GridRun,
    config: ModelConfig,
    trained: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    text_loss_before: float | None,
    logs: Sequence[Path],
    folder: Path,
    cost: Cost,
    **found: Any,
) -> RunRecord:
    """What every run leaves, and what was `found` besides; the trained model is measured here."""
    lines = read_step_lines(*logs)
    return replace(
        blank_record(declared),
        forgetting_nats=_difference(text_loss_before, _text_loss(declared, trained, tokenizer, trained=True)),
        gradient_norms=lines.gradient_norms if "gradient_norms" in declared.measure else (),
        spectra=_spectra(declared, config, trained),
        train_loss=lines.train_loss,
        cost=_with_memory_and_size(cost, lines, folder),
        adapter=_adapter(declared, folder),
        **found,
    )


def _text_loss(declared: GridRun, model: Model, tokenizer: PreTrainedTokenizerBase, *, trained: bool) -> float | None:
    """What the fixed text costs the base model, or the trained one as it would be exported."""
    if "forgetting_text" not in declared.measure:
        return None
    with merged_for_scoring(model) if trained else base_alone(model):
        return mean_token_cross_entropy(model, tokenizer, fixed_text(declared.forgetting_text))


def _difference(before: float | None, after: float | None) -> float | None:
    """None where either is not known; or where training broke the model so far that it is infinite."""
    if before is None or after is None or not math.isfinite(after - before):
        return None
    return after - before


def _spectra(declared: GridRun, config: ModelConfig, trained: Model) -> Sequence[Spectrum]:
    if "spectra" not in declared.measure:
        return ()
    base, _ = load_model(config.model_copy(update={"device": "cpu"}))  # the GPU holds the trained one
    return spectra(base, trained)


def _with_memory_and_size(cost: Cost, lines: StepLines, folder: Path) -> Cost:
    memory = lines.memory_mb
    sizes = [path.stat().st_size for path in (_saved(folder) or folder).glob("*.safetensors")]
    return replace(
        cost,
        adapter_bytes=sum(sizes) if sizes else None,
        peak_memory_mb=max(memory, default=None),
        mean_memory_mb=statistics.fmean(memory) if memory else None,
        high_memory_mb=sorted(memory)[math.ceil(0.99 * len(memory)) - 1] if memory else None,
    )


def _saved(folder: Path) -> Path | None:
    """The adapter, or the model, of a finished run."""
    return next((folder / name for name in (ADAPTER_FOLDER, MODEL_FOLDER) if (folder / name).is_dir()), None)


def _adapter(declared: GridRun, folder: Path) -> dict[str, Any] | None:
    settings = folder / ADAPTER_FOLDER / "adapter_config.json"
    if not settings.is_file():
        return None
    # PEFT writes down where this machine keeps the model; a record is read on others too.
    stored = read_json(settings)
    return {
        **stored,
        "peft_type": plain_peft_type(stored["peft_type"]),
        "base_model_name_or_path": declared.model,
    }
