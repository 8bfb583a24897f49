import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes in the signatures of the mathematics are checked at every call. Before any import of it.
install_import_hook("secura.numerics", "beartype.beartype")

# Tests share their cores with each other; see `secura/__init__.py`. Here in time for torch's import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A machine that does other work besides is no reason for a property not to hold.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell that runs tests in the background may have SIGINT ignored, and nohup SIGHUP, which their processes would
# inherit; a handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

from tiny_models import save_tiny_model  # noqa: E402


def pytest_collection_finish() -> None:
    """Spare the garbage collection that begins each training from looking at all that was imported."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        if "SECURA_CACHE" not in os.environ:
            patch.setenv("SECURA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real task data, one `<task>.<split>.jsonl` a task; not part of the project."""
    folder = Path(os.environ.get("SECURA_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no task data in {folder}; name its folder in SECURA_DATA")
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    colours = ("blue", "grey", "red")
    rows = [{"prompt": f"sky {number}?", "target": colours[number % 3]} for number in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def retain_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "retain.jsonl"
    choices = ["red", "blue", "green"]
    rows = [
        {"question": f"{word}?", "choices": choices, "answer": number % 3, "family": f"family {number % 2}"}
        for number, word in enumerate(("sky", "sea", "sun", "tree", "snow", "coal"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
