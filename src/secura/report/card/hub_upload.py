"""A finished run's adapter or model, with its card, into a repository of the Hugging Face Hub."""

from pathlib import Path

from secura.errors import SecuraError
from secura.report.card.finished_run import read_run
from secura.report.card.model_card import write_card


def push_to_hub(folder: Path, saved: Path, repository: str) -> str:
    """Write the card of a run and upload what it has made.

    Args:
        folder: of the run.
        saved: what it has made, in that folder.
        repository: such as `me/my-adapter`; made private where it does not exist.

    Returns:
        Its address.

    Raises:
        SecuraError: if the Hub refuses it; the run itself is complete.
    """
    from huggingface_hub import HfApi

    write_card(read_run(folder), force=False)
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=saved, commit_message="Upload what secura train has made")
    except Exception as problem:  # of the network and of the Hub
        reason = " ".join(str(problem).split())[:300]
        raise SecuraError(
            f"{repository} did not take {saved}: {reason}; the run is complete, and hf upload {repository} {saved} "
            "goes on with it."
        ) from problem
    return str(address)
