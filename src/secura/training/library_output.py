"""Leaving the screen to our own progress."""

import warnings

import transformers


def silence_libraries() -> None:
    """Silence the libraries' bars and notices: ours say the same better."""
    import datasets
    import huggingface_hub

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    # PyTorch's new names are not in accelerate and DeepSpeed yet.
    for name in ("broadcast_buffers", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", category=FutureWarning, message=f".*{name}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
