"""The other packages: which can be imported here, and why the rest cannot."""

import importlib
import importlib.metadata
import warnings
from dataclasses import dataclass

from salhub.results import Table

# module -> distribution and what it is known for
KNOWN = {
    "captum": ("captum", "Grad-CAM, gradients, guided backprop, LRP"),
    "pytorch_grad_cam": ("grad-cam", "the CAM family"),
    "torchcam": ("torchcam", "the CAM family"),
    "zennit": ("zennit", "layer-wise relevance propagation"),
    "lxt.explicit.functional": ("lxt", "relevance through attention (AttnLRP)"),
    "sumy": ("sumy", "LexRank among others, without damping"),
    "lexrank": ("lexrank", "degree centrality within components, called LexRank"),
    "hqq": ("hqq", "weights rounded to few bits without data"),
    "auto_round": ("auto-round", "rounding of weights learned block by block"),
    "monai": ("monai", "networks and metrics of medical pictures"),
    "skimage": ("scikit-image", "Otsu, Chan-Vese and morphological active contours"),
    "torch_pruning": ("torch-pruning", "structural pruning by Taylor and Hessian scores"),
    "torchjd": ("torchjd", "gradients of several tasks combined: PCGrad, CAGrad, Nash-MTL"),
    "clarabel": ("clarabel", "interior point solver of conic programmes"),
    "cvxpy": ("cvxpy", "the solver that CAGrad and Nash-MTL of torchjd need"),
    "scenedetect": ("scenedetect-headless", "cuts found in films"),
    "erasus": ("erasus", "unlearning, masked gradient ascent among others"),
    "peft": ("peft", "low-rank adapters (LoRA) of any network"),
    "sklearn": ("scikit-learn", "logistic regression on frozen features"),
}


@dataclass(frozen=True)
class Peer:
    """A package to compare with.

    Args:
        module: What is imported.
        distribution: What is installed.
        version: Installed version, or None.
        reason: Why it takes no part, or None when it does.
    """

    module: str
    distribution: str
    version: str | None
    reason: str | None

    @property
    def label(self) -> str:
        """Name and version for tables."""
        return self.distribution if self.version is None else f"{self.distribution} {self.version}"


def find_peer(module: str) -> Peer:
    """Import a package, or find out why that fails.

    Args:
        module: A key of `KNOWN`, or any module.

    Example:
        >>> find_peer("no_such_package").reason
        "not installed; pip install 'salhub[bench]'"
    """
    distribution = KNOWN.get(module, (module,))[0]
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Peer(module, distribution, None, "not installed; pip install 'salhub[bench]'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    # A torchvision of another build fails with a RuntimeError about an unknown operator.
    except Exception as error:
        return Peer(module, distribution, version, f"cannot be imported: {first_line(error)}")
    return Peer(module, distribution, version, None)


def find_peers(*modules: str) -> dict[str, Peer]:
    """Return the named packages by module name."""
    return {module: find_peer(module) for module in modules}


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def peers_table(peers: dict[str, Peer]) -> Table:
    """Who took part, and who did not and why."""
    rows = [
        [
            peer.distribution,
            peer.version or "-",
            KNOWN.get(peer.module, ("", ""))[1],
            peer.reason or "took part",
        ]
        for peer in peers.values()
    ]
    return Table("Peers", "", ["package", "version", "offers", "here"], rows)
