"""`secura push`: a folder sent to the Hugging Face Hub, after everything that can be checked here has been.

Sent are the files of a model, an adapter or an export, and nothing else that may lie beside them. Nothing is sent that
`secura verify-export` has found different, or that has changed since it looked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from secura.checksums import file_checksum
from secura.errors import ConfigError, SecuraError
from secura.experiments.export import EXPORT_FILE
from secura.experiments.files import ADAPTER_FOLDER, MODEL_FOLDER
from secura.experiments.models.base_record import read_json_object
from secura.experiments.run.packages import check_repository
from secura.experiments.verify_export import VERIFICATION_FILE
from secura.report.card.checked import check_card
from secura.report.card.finished_run import read_run
from secura.report.card.loading import hub_name
from secura.report.card.model_card import CARD_FILE, is_pefts_form, write_card

_SENT = (".safetensors", ".gguf", ".json", ".jinja", ".md", ".txt", ".model")
_MODELS = ("adapter_config.json", "config.json", "model.gguf", "lora.gguf")


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """What is sent, and where."""

    folder: Path
    """Of an export, an adapter, a model, or a run."""
    repository: str
    """Its name on the Hub, such as user/name."""
    public: bool = False
    """Whether a new repository can be seen by everybody."""
    message: str = "Made by secura"
    """Of the commit."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What would be sent."""

    folder: Path
    """Where it lies."""
    files: Sequence[Path]
    """Which files, within it."""
    left_out: Sequence[Path]
    """Files that lie beside them and stay here."""
    notes: Sequence[str]
    """What the user should know first."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum((self.folder / file).stat().st_size for file in self.files)


def parcel(settings: PushSettings) -> Parcel:
    """Check a folder and list what of it is sent; nothing is contacted.

    Raises:
        InputError: if the folder, its card, its verification or the name of the repository is not fit to be sent.
    """
    check_repository(settings.repository)
    folder = _folder(settings.folder)
    all_files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in all_files if len(path.parts) == 1 and _is_sent(path.name)]
    card = _text_of(folder / CARD_FILE)
    if not card or is_pefts_form(card):
        raise ConfigError(f"{folder} has no card; write one with secura card, or a {CARD_FILE} of your own.")
    data: Any = check_card(card).data
    notes = [] if data.license else [f"{CARD_FILE} names no license, so others may not use the model; add one"]
    return Parcel(
        folder=folder,
        files=files,
        left_out=[path for path in all_files if path not in files],
        notes=[*notes, *_notes_on_base(folder), *_notes_on_verification(folder, files)],
    )


def push(settings: PushSettings, sent: Parcel) -> str:
    """Send what `parcel` has listed.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: without a token.
        SecuraError: if the Hub refuses it or cannot be reached.
    """
    api = HfApi()
    try:
        address = api.create_repo(settings.repository, private=not settings.public, exist_ok=True)
        api.upload_folder(
            repo_id=settings.repository,
            folder_path=sent.folder,
            allow_patterns=[_literally(file.name) for file in sent.files],
            commit_message=settings.message,
        )
    except LocalTokenNotFoundError as problem:
        raise ConfigError("there is no token for the Hub; run hf auth login, or set HF_TOKEN.") from problem
    except HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", None)
        if status in (401, 403):
            raise ConfigError(
                f"this token has no permission to write to {settings.repository}; run hf auth login with another token."
            ) from problem
        raise SecuraError(f"the Hub refused it: {_in_one_line(problem)}") from problem
    except (ValueError, OSError, OfflineModeIsEnabled) as problem:
        raise SecuraError(f"it could not be sent: {_in_one_line(problem)}") from problem
    return str(address)


def push_run(folder: Path, repository: str) -> str:
    """Write the card of a finished run, unless it has one, and send what the run has made.

    Returns:
        The address of the repository.

    Raises:
        SecuraError: if it is not fit to be sent, or the Hub does not take it; the run itself is complete.
    """
    settings = PushSettings(folder=folder, repository=repository)
    try:
        write_card(read_run(folder), force=False)
        return push(settings, parcel(settings))
    except SecuraError as problem:
        raise type(problem)(
            f"the run is complete, but it could not be uploaded to {repository}: {problem}  To try again: secura "
            f"push {folder} "
            f"{repository}"
        ) from problem


def _folder(folder: Path) -> Path:
    """The folder itself, or what a run in it has made."""
    for place in (folder, folder / ADAPTER_FOLDER, folder / MODEL_FOLDER):
        if any((place / name).is_file() for name in _MODELS):
            return place
    raise ConfigError(f"{folder} holds no adapter, model or export; name the folder of one, or of a run.")


def _is_sent(name: str) -> bool:
    return not name.startswith(".") and (name.endswith(_SENT) or name == "Modelfile")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{file} is no text of UTF-8; write it anew.") from problem


def _notes_on_base(folder: Path) -> list[str]:
    config = read_json_object(folder / "adapter_config.json")
    if config is None:
        return []
    base = config.get("base_model_name_or_path")
    if base and hub_name(str(base)):
        return []
    return [
        f"adapter_config.json names the base {base}, which others cannot load; write its name on the Hub there, if any"
    ]


def _notes_on_verification(folder: Path, sent: Sequence[Path]) -> list[str]:
    """Refuse an export that is known to be wrong; say where none has been looked at."""
    file = folder / VERIFICATION_FILE
    if not file.is_file():
        is_export = (folder / EXPORT_FILE).is_file()
        return ["secura verify-export has not been run on it"] if is_export else []
    found = read_json_object(file) or {}
    failures, checksums = found.get("failures"), found.get("files_sha256")
    if found.get("passed") is False and isinstance(failures, list) and failures:
        raise ConfigError(f"{file} says that the export differs: {failures[0]}; export it again.")
    if found.get("passed") is not True or not isinstance(checksums, dict):
        raise ConfigError(f"{file} is damaged; run secura verify-export again.")
    for name, checksum in checksums.items():
        if name != CARD_FILE and (not (folder / name).is_file() or file_checksum(folder / name) != checksum):
            raise ConfigError(f"{folder / name} has changed since it was verified; run secura verify-export again.")
    for name in (each.name for each in sent):
        if name not in checksums and name not in (CARD_FILE, VERIFICATION_FILE):
            raise ConfigError(f"{folder / name} has come since it was verified; run secura verify-export again.")
    return []


def _literally(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _in_one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
