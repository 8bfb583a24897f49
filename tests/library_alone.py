"""Trains, folds, saves and loads an adapter, and runs every strategy: a program for tests.

It takes the names of packages as arguments, and goes on as if they were not installed.
"""

import sys
import tempfile
from pathlib import Path

sys.modules.update(dict.fromkeys(sys.argv[1:]))  # None there makes Python raise ModuleNotFoundError

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from tiny_models import tiny_model  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402

from secura import FoldCallback, SecuraConfig, fold, folded_tasks, undo  # noqa: E402
from secura.continual.ewc import EWC  # noqa: E402
from secura.continual.ilora import ILoRA  # noqa: E402
from secura.continual.kl_anchor import KLAnchor  # noqa: E402
from secura.continual.lwf import LwF  # noqa: E402
from secura.continual.o_lora import OLoRA  # noqa: E402
from secura.continual.replay import Replay  # noqa: E402
from secura.continual.sequential import Sequential  # noqa: E402
from secura.continual.strategy_callback import StrategyCallback  # noqa: E402

STRATEGIES = (
    Sequential(),
    Replay(buffer_examples=4, share=0.5, seed=0),
    EWC(fisher_examples=2),
    ILoRA(buffer_examples=4, replayed_rows=2, seed=0),
    KLAnchor(),
    LwF(),
    OLoRA(),
)
ROWS = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]} for _ in range(4)]


def main() -> None:
    config = SecuraConfig(r=4, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        train(model, name, FoldCallback(every="task"))
        assert folded_tasks(model) == ["task"]
        model.save_pretrained(name)
        loaded = PeftModel.from_pretrained(tiny_model(), name)
        assert torch.equal(logits(loaded), logits(model))
        assert not torch.equal(logits(loaded), logits(tiny_model()))
        undo(model, "task")
        assert (logits(model) - logits(tiny_model())).abs().max() < 1e-5
        fold(model, "again")
        for strategy in STRATEGIES:
            learner = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM"))  # type: ignore[arg-type]
            for task_index in range(2):
                train(learner, name, StrategyCallback(strategy, task_index=task_index))
                strategy.end_task(learner, task_index, ROWS, collate)
            strategy.save(Path(name))


def train(model: PeftModel, folder: str, callback: object) -> None:
    arguments = TrainingArguments(
        folder,
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(
        model=model,
        args=arguments,
        train_dataset=ROWS,  # type: ignore[arg-type]
        data_collator=collate,
        callbacks=[callback],  # type: ignore[list-item]
    ).train()


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8]])).logits


if __name__ == "__main__":
    main()
