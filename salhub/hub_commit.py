"""One commit to the Hugging Face Hub, and what it answers in one sentence."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from salhub.errors import SalhubError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

Content = Path | bytes

_LOGIN = "log in with `hf auth login`, or give token=... or HF_TOKEN"


class PushError(SalhubError, OSError):
    """The Hub did not take a model: no login, no right to write, no network, a damaged upload."""


def check_repository(repo_id: str) -> None:
    """Raises ValueError unless a repository is written as "owner/name"."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
        is_complete = "/" in repo_id
    except HFValidationError:
        is_complete = False
    if not is_complete:
        raise ValueError(f"The repository must be written as 'owner/name', got '{repo_id}'.")


def check_login(token: str | None = None) -> None:
    """Raises PushError where nothing can be pushed: no network, or nobody logged in."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise PushError("Pushing needs the network, but HF_HUB_OFFLINE is set; unset it.")
    if not (token or get_token()):
        raise PushError(f"Pushing needs an access token, but there is none; {_LOGIN}.")


def check_writer(repo_id: str, token: str | None = None) -> None:
    """Ask the Hub whether a repository can be pushed to, before there is anything to push.

    Args:
        repo_id: "owner/name".
        token: Access token; by default the saved login.

    Raises:
        PushError: No login, one that the Hub does not accept or that may only read, or an owner
            for whom it may not write.
    """
    from huggingface_hub import HfApi

    check_login(token)
    with _refusals_explained(repo_id):
        account = HfApi(token=token, library_name="salhub").whoami()
    access = account.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise PushError(f"{repo_id} was not pushed: the access token is read-only; {_LOGIN}.")
    places = [place for place in account.get("orgs", []) if place.get("roleInOrg") != "read"]
    owners = {place["name"].lower() for place in (account, *places)}
    if repo_id.split("/")[0].lower() not in owners:
        raise PushError(f"{repo_id} was not pushed: {_no_right(repo_id)}")


def commit_files(
    repo_id: str,
    files: Mapping[str, Content],
    message: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> "CommitInfo":
    """Put files into a repository in one commit; the same files again change nothing.

    Args:
        repo_id: "owner/name"; created when it is not there.
        files: Name in the repository -> file or bytes.
        message: First line of the commit.
        private: Whether a repository created here is private.
        token: Access token; by default the saved login.
        revision: Branch, created when it is not there; "main" by default.
        create_pr: Open a pull request instead of committing.

    Returns:
        The address of the commit, a string with further attributes such as `oid` and `pr_url`.

    Raises:
        PushError: The Hub did not take it.

    Example:
        >>> commit_files("me/notes", {"README.md": b"# Notes"}, "Begin")  # doctest: +SKIP
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="salhub")
    additions = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
    with _refusals_explained(repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # upload_folder may split its work over several commits; this call never does.
        return api.create_commit(
            repo_id, additions, commit_message=message, revision=revision, create_pr=create_pr
        )


@contextmanager
def _refusals_explained(repo_id: str) -> Generator[None]:
    """Turn what the Hub client raises into one sentence that says what to do."""
    try:
        yield
    except Exception as error:
        reason = _reason(error, repo_id)
        if reason is None:
            raise
        raise PushError(f"{repo_id} was not pushed: {reason}") from error


def _reason(error: BaseException, repo_id: str) -> str | None:
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError

    status = _status(error)
    if status == 401:
        return f"{ENDPOINT} does not accept the access token; {_LOGIN}."
    if status in (403, 404):
        return _no_right(repo_id)
    if isinstance(error, HfHubHTTPError):
        return f"{ENDPOINT} answered with status {status}; try again later."
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HfHubHTTPError):
        return f"{' '.join(str(error).split())} Nothing was changed there; push again."
    # The client's transport library changes its name between releases.
    if type(error).__module__.startswith("httpx"):
        return f"{ENDPOINT} cannot be reached ({error}); check the network."
    return None


def _no_right(repo_id: str) -> str:
    return f"your account has no write access to '{repo_id.split('/')[0]}'; choose another owner."


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)
