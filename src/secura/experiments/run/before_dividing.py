"""What must be known of a model while its weights are still whole, before training divides them."""

from pathlib import Path

from peft import PeftModel

from secura.adapters.secura.layer import SecuraLayer
from secura.evaluation.scoring import Model


def get_ready_to_divide(model: Model, resume_from: Path | None) -> None:
    """Take fingerprints, and what a checkpoint holds besides trained weights.

    Once divided, one process alone saves an adapter, when it cannot gather a weight. FSDP2's
    own checkpoints hold what is trained only, and so no folds.
    """
    if not isinstance(model, PeftModel):
        return
    if resume_from is not None:
        model.load_adapter(str(resume_from), str(model.active_adapter), is_trainable=True)
    for module in model.modules():
        if isinstance(module, SecuraLayer):
            module.fingerprint()
