"""Whether the Hub can be reached at all: asked once, without the retries of its client."""

import logging

from salhub.errors import did_you_mean
from salhub.manifest import NAMESPACE, read_manifest

logger = logging.getLogger(__name__)

# Seconds for a connection; the client itself waits twice as long, for each address of the Hub.
_PATIENCE = 5
_NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ProxyError"}


def is_reachable(name: str, *, kind: str = "model", token: str | bool | None = None) -> bool:
    """Whether there is a connection to the Hub, whatever it answers.

    Args:
        name: A repository, about which the Hub is asked.
        kind: "model" or "dataset".
        token: As for `from_pretrained`.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    patience = min(_PATIENCE, constants.HF_HUB_ETAG_TIMEOUT)
    try:
        url = hf_hub_url(name, "README.md", repo_type=kind)
        get_hf_file_metadata(url, token=token, timeout=patience)
    except Exception as error:  # what the Hub says of the name is explained where it is read
        is_cut_off = type(error).__module__.startswith("httpx")
        if is_cut_off and type(error).__name__ in _NO_CONNECTION:
            logger.info("%s: the Hub could not be reached (%s)", name, error)
            return False
    return True


def missing_message(name: str, *, is_reached: bool = True) -> str:
    """What is said of the name of a model of which nothing was found.

    Args:
        name: The name.
        is_reached: Whether there was a connection to the Hub.
    """
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE

    why = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "missing, private or unreachable"
    short = name.removeprefix(NAMESPACE)
    shipped = read_manifest().get(short) if name.startswith(NAMESPACE) else None
    if shipped is not None:
        return (
            f"revision, subfolder or force_download asks for '{name}' from the Hub, but it "
            f"is neither in the cache {HF_HUB_CACHE} nor available from {ENDPOINT} ({why}); "
            f"leave them out to load the version shipped with salhub, revision {shipped.revision}."
        )
    looked_for = (
        f"The model '{name}' was not found: it is not a folder, not shipped with salhub, not "
        f"in the cache {HF_HUB_CACHE}, and "
    )
    hint = did_you_mean(short, read_manifest())
    if not is_reached:
        return (
            f"{looked_for}{ENDPOINT} could not be reached; check the name with `salhub list`, "
            f"the path, or the connection.{hint}"
        )
    return (
        f"{looked_for}not available from {ENDPOINT} ({why}).{hint} `salhub list` shows the "
        "shipped models."
    )
