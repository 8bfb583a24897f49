"""What `secura verify-export` found, on the screen."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from secura.experiments.verify_export import TaskScores, Verification

_SHOWN_FAILURES = 10


def show_verification(console: Console, found: Verification) -> None:
    """Weights, answers, scores, and the verdict."""
    right = sum(check.passed for check in found.weights)
    noise = [check.noise_over_signal for check in found.weights if check.noise_over_signal is not None]
    parity = found.parity
    lines = [f"weights: {right} of {len(found.weights)} tensors hold what they should"]
    if noise:
        lines.append(
            f"rounding over what was learned: {sum(noise) / len(noise):.2g} on average, {max(noise):.2g} at most"
        )
    ties = f", {parity.ties} others part between equals" if parity.ties else ""
    lines.append(f"answers: {parity.same} of {len(parity.prompts)} prompts in the same tokens{ties}")
    lines.append(
        f"divergence: {parity.mean_kl:.2g} nats per token on average, {parity.largest_kl:.2g} at most; "
        f"nats per token {parity.nats[0]:.4f} tested, {parity.nats[1]:.4f} exported"
    )
    if found.vllm is not None:
        lines.append(
            f"through vLLM: {found.vllm.same} of {len(found.vllm.prompts)} prompts in the same tokens, "
            f"{found.vllm.mean_kl:.2g} nats per token on average"
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found.scores:
        console.print(_table(found.scores), highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    failures = found.failures
    for failure in failures[:_SHOWN_FAILURES]:
        console.print(f"differs: {failure}", highlight=False, markup=False, soft_wrap=True)
    if len(failures) > _SHOWN_FAILURES:
        console.print(f"and {len(failures) - _SHOWN_FAILURES} more", highlight=False)
    verdict = "not what was tested" if failures else "what was tested"
    console.print(f"{found.form}, stored as {found.stored_as}: {verdict}", highlight=False, markup=False)
    console.print(f"verification: {found.file}", highlight=False, markup=False, soft_wrap=True)


def _table(scores: Sequence[TaskScores]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("task", overflow="fold")
    for heading in ("base", "tested", "export", "tested", "export"):
        table.add_column(heading, justify="right")
    for each in scores:
        values = (each.base, each.tuned, each.export)
        table.add_row(each.task, *(f"{value:.3f}" for value in values), *_gain_or_kept(each))
    return table


def _gain_or_kept(each: TaskScores) -> tuple[str, str]:
    """What was gained in a task that was learned, what was kept in any other."""
    if each.gain_tuned is not None and each.gain_export is not None:
        return tuple(f"gain {value:+.3f}".replace("-", "−") for value in (each.gain_tuned, each.gain_export))  # type: ignore[return-value]
    kept = ("–" if value is None else f"kept {value:.1%}" for value in (each.kept_tuned, each.kept_export))
    return tuple(kept)  # type: ignore[return-value]
