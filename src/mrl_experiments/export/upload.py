"""Upload of an exported folder to the Hugging Face hub."""

from pathlib import Path

from mrl_experiments.errors import UserError, said


def check_token() -> None:
    """Raise UserError in one line unless a token of the hub is configured."""
    from huggingface_hub import get_token

    if not get_token():
        raise UserError(
            "push=true: no token of the Hugging Face hub is configured",
            expected="a token that may write",
            remedy="hf auth login, or HF_TOKEN=<token>",
        )


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder, and return the repository's address.

    Args:
        folder: All of it is uploaded, but for hidden files.
        repository: <owner>/<name>, or a name of the account's own; it is made where it is not there.
        private: Of a new repository.

    Raises:
        UserError: If the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="mrl-experiments")
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=str(folder),
            ignore_patterns=[".*"],
            commit_message=f"Export of {folder.parent.name}",
        )
    except Exception as error:  # of the network, or of the hub, each of its own kind
        raise UserError(
            f"{folder} was not uploaded to {repository}: {said(error)}",
            expected="a hub that can be reached, and a token that may write there",
            remedy="the folder is whole: repeat the command, which uploads it again",
        ) from error
    return str(made)
