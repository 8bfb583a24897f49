"""Packages that a setting needs and that are not installed, refused with the command that installs them."""

from difflib import get_close_matches
from importlib.util import find_spec

from secura.errors import ConfigError
from secura.experiments.settings.run import RunConfig, TrainingConfig
from secura.experiments.settings.sequence import LearningConfig

_OF_TORCH = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
_OF_BITSANDBYTES = (
    *("adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_8bit", "lion_32bit"),
    *("paged_adamw_8bit", "paged_adamw_32bit", "paged_ademamix_8bit", "paged_ademamix_32bit"),
    *("paged_lion_8bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
)
_OF_TORCHAO = ("adamw_torch_4bit", "adamw_torch_8bit")
OPTIMIZERS = (*_OF_TORCH, *_OF_BITSANDBYTES, *_OF_TORCHAO)
"""Those of transformers' names that need no more than a package. Others want modules named, or change the loop."""


def check_packages(config: LearningConfig) -> None:
    """Refuse what a setting names and what is not there.

    Raises:
        ConfigError: naming the setting, and the command that installs what it needs.
    """
    training = config.training
    _check_optimizer(training)
    for tracker in training.report_to:
        _need(tracker, f"training.report_to names {tracker}", f"pip install {tracker}")
    for name in ("packing", "padding_free"):
        if getattr(training, name):
            _need("trl", f"training.{name} packs rows as TRL does", "pip install 'secura[trl]'")
    if isinstance(config, RunConfig) and config.push_to_hub is not None:
        _check_hub(config.push_to_hub)


def _check_optimizer(training: TrainingConfig) -> None:
    name = training.optimizer
    if name is None or name in _OF_TORCH:
        return
    if name not in OPTIMIZERS:
        near = get_close_matches(name, OPTIMIZERS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"training.optimizer is {name!r}; the nearest is {near}, all are {', '.join(OPTIMIZERS)}; for any other, "
            "use transformers' Trainer with secura's callbacks."
        )
    if name in _OF_BITSANDBYTES:
        _need("bitsandbytes", f"training.optimizer is {name}", "pip install 'secura[quantized]'")
    else:
        _need("torchao", f"training.optimizer is {name}", "pip install torchao")


def _need(package: str, setting: str, command: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"{setting}, which needs {package}, and that is not installed; run {command}.")


def check_repository(repository: str) -> None:
    """Refuse what the Hub would not take for the name of a repository.

    Raises:
        ConfigError: with the Hub's own reason.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as problem:
        raise ConfigError(f"{repository} is no name of a repository: {' '.join(str(problem).split())}") from problem


def _check_hub(repository: str) -> None:
    """Refuse a repository that cannot be written to, while nothing is lost by it."""
    from huggingface_hub import HfApi

    check_repository(repository)
    try:
        HfApi().whoami()
    except Exception as problem:  # of the network, of the token, or of offline mode
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(
            f"push_to_hub is {repository}, but the login to the Hub fails: {reason}; run hf auth login, or leave "
            "it out "
            "and upload the folder later."
        ) from problem
