"""Rows of a data set of the Hugging Face Hub: from the local cache where it is there, only else from the network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from secura.tasks.task import Row

_PATIENCE_SECONDS = 5.0


def hub_rows(path: str, config: str | None, split: str, *, revision: str | None = None) -> Sequence[Row]:
    """The rows of one split.

    What `datasets` has prepared before is used without any network call, at the state it was
    fetched in; and where HF_HUB_OFFLINE is set, nothing else is.

    Args:
        path: name of the data set, such as `openai/gsm8k`.
        config: its configuration; None where it has one only.
        split: the split, or a part of one such as `train[:1000]`.
        revision: branch or commit; None is the newest.

    Raises:
        LookupError: if it cannot be had, with the reason on one line.
    """
    import datasets
    import datasets.config

    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    offline = bool(datasets.config.HF_HUB_OFFLINE)
    try:
        with _without_network():
            return datasets.load_dataset(path, config, split=split, **options)
    except Exception as problem:  # the client raises types of many libraries
        if offline:
            raise LookupError(f"not in the local cache, and HF_HUB_OFFLINE is set: {_one_line(problem)}") from problem
    check_hub_answers()
    try:
        return datasets.load_dataset(path, config, split=split, **options)
    except Exception as problem:
        raise LookupError(_one_line(problem)) from problem


def check_hub_answers() -> None:
    """Ask the hub once whether it is there; its client would try for a minute before it says that it is not.

    Raises:
        LookupError: if no answer comes within five seconds.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_SECONDS)
    except Exception as problem:  # the client's errors, a proxy's, those of a certificate
        raise LookupError(f"not in the local cache, and {constants.ENDPOINT} cannot be reached") from problem


@contextmanager
def _without_network() -> Iterator[None]:
    """Let `datasets` look into its cache alone, and without the warning that it does."""
    import datasets
    import datasets.config

    own, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = True
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = own
        datasets.logging.set_verbosity(verbosity)


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
