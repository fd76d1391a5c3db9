"""Configuration of the saliency-driven active contour."""

from typing import Any, Literal, Self

from salhub.config_fields import LARGEST_SIDE, ranged
from salhub.configuration import SaliencyConfig, strict
from salhub.errors import check_choice

OWN_KINDS = ("border", "ft", "sr")
SALIENCY_KINDS = (*OWN_KINDS, "tensor")
# What `salhub train active-contour` may change; the weights hold them.
LEARNED = ("alpha", "beta", "nu", "mu", "sigma")

_LIF: dict[str, Any] = {
    "restoration": [],
    "alpha": 0.0,
    "beta": 1.0,
    "sigma": 3.0,
    "sigma_unit": "pixel",
    "epsilon": 1.5,
    "zeta": 0.9,
    "zeta_clear": None,
    "time_step": 1.0,
    "force_scale": "intensity",
    "saliency_fit": "means",
    "bound": None,
    "schedule": "constant",
    "init": "box",
    "max_iterations": 600,
    "check_every": 10,
}
_VARIATIONAL: dict[str, Any] = {
    "regulariser": "variational",
    "epsilon": 1.0,
    "time_step": 0.1,
    "nu": 0.001 * 255**2,
    "mu": 1.0,
    "initial_height": 2.0,
}
_SALIENCY_MEANS: dict[str, Any] = {**_LIF, "init": "saliency", "max_iterations": 300}
# Beside "tuned", which are the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "tuned": {},
    "plain": {**_SALIENCY_MEANS, "saliency": "ft", "alpha": 1.0},
    "paper_constant": {**_SALIENCY_MEANS, "alpha": 0.25, "sigma": 8.0, "zeta": 0.45}
    | {"sigma_unit": "relative"},
    "variational": {**_SALIENCY_MEANS, "alpha": 0.25, "sigma": 8.0, **_VARIATIONAL}
    | {"sigma_unit": "relative"},
    "four_regions": {**_SALIENCY_MEANS, "alpha": 0.25, "sigma": 8.0, "zeta": 0.45}
    | {"num_phases": 2, "sigma_unit": "relative"},
    "lif": _LIF,
    "lif_paper": {**_LIF, "epsilon": 1.0, "zeta": 0.45, "time_step": 0.025},
    "rsf": {**_LIF, **_VARIATIONAL, "local_energy": "rsf", "border": "matlab"}
    | {"max_iterations": 300},
    "chan_vese": {**_LIF, "local_energy": "chan_vese", "regulariser": "variational"}
    | {"epsilon": 1.0, "time_step": 0.1, "nu": 0.001 * 255**2, "initial_height": 2.0},
}


@strict
class SaliencyActiveContourConfig(SaliencyConfig):
    """Settings of `SaliencyActiveContourForSegmentation`; the defaults are the preset "tuned".

    A contour is moved by E = alpha E_saliency + beta E_local + nu length + mu regularity. The
    published abstract fixes that much [P]; LIF, RSF and Chan-Vese are exact [R]; the rest is our
    choice [C], because the full text of the paper was not available.

    Args:
        saliency: [C] Map that drives the contour: "border", the distance of pixels from a plane
            through the frame of the picture; "ft", frequency-tuned contrast; "sr", spectral
            residual; "tensor", a map given with every call; or the name of a hub model or a
            folder, such as "salhub/normgrad-efficientnet-lite0".
        polarity: [C] For grey pictures with "border": whether the object is "bright", "dark" or
            "both"; "auto" chooses the side with the most light or shade beyond the frame's noise.
        center_prior: [C] Whether to reduce the saliency towards the border.
        restoration: [C] Faults to correct first, each only if it is found: "spikes", "noise",
            "blur".
        saliency_scope: [C] Where the mean saliency of each side is computed: in the whole picture
            ("global"), in a window ("local"), or half of each ("both").
        saliency_fit: [C] "means", squared distance to the means of both sides, as the abstract
            suggests; "likelihood", log odds of the two Gaussians that split its histogram with
            minimum error. The contour does not affect "likelihood", so the start matters little.
        local_energy: [R] "lif", "rsf", "chan_vese" or "none".
        alpha: [C] Weight of the saliency; its final value if it decays. In "two_stage" it counts
            twice for a map that is given or comes from a network.
        beta: [C] Weight of the local energy.
        nu: [R] Weight of the length of the contour.
        mu: [R] Weight of |grad phi| = 1; time_step * mu below 0.25.
        lambda1: [R] Weight of the outside in "rsf" and "chan_vese".
        lambda2: [R] Weight of the inside.
        sigma: [R] Standard deviation of the window of the local energy.
        sigma_unit: "pixel", or "relative": pixels of a picture whose longer side is 128.
        force_scale: "intensity", forces of a picture in 0..255 as in the papers; "contrast" [C],
            forces divided by the local contrast and kept in [-1, 1].
        epsilon: [R] Width of the step and delta function.
        time_step: [R] Step of the descent.
        zeta: [R] Standard deviation of the 5 x 5 Gaussian that smooths phi after each step.
        zeta_clear: [C] The same for pictures whose background saliency varies by at most 7 % of
            its contrast, where corners can be kept; it rises to `zeta` at 12 %. None to always use
            `zeta`.
        regulariser: "gaussian", or "variational", by nu and mu.
        bound: [C] Keep phi in [-bound, bound] and move it equally everywhere; None to use the
            delta function, as in the papers, with which phi freezes where it has grown.
        border: [R] "replicate", or "matlab", which copies the third row onto the first, as in the
            RSF code.
        schedule: [C] "constant"; "decay", alpha falls to a quarter over the last half of
            `max_iterations`; "two_stage", only saliency with weight 1 for `saliency_steps`
            iterations, then alpha falls to its value over five iterations and the local energy is
            added.
        saliency_steps: [C] Number of iterations of the first stage of "two_stage".
        num_phases: 1 for two regions, 2 for four.
        init: Initial contour: "saliency", the threshold of the map; or one of `initial_level_set`.
        initial_height: [R] |phi| of the first level set.
        max_iterations: Maximum number of steps.
        tolerance: Share of pixels that may change sides in two consecutive checks for the contour
            to stop.
        check_every: Number of iterations between checks.
        invert: Whether the foreground is the less salient side.

    Raises:
        ValueError: A setting out of its range, or settings that contradict each other.

    Example:
        >>> SaliencyActiveContourConfig.from_preset("lif", sigma=5.0).zeta
        0.9

    Source: "Saliency-Driven Active Contour Model for Image Segmentation" (arXiv 2205.11063); Zhang,
    Song and Zhang 2010 (LIF); Li et al. 2008 (RSF); Chan and Vese 2001.
    """

    model_type = "salhub_active_contour"

    saliency: str = "border"
    polarity: Literal["auto", "bright", "dark", "both"] = "auto"
    center_prior: bool = False
    restoration: list[str] | tuple[str, ...] = ("spikes", "noise", "blur")
    saliency_scope: Literal["global", "local", "both"] = "global"
    saliency_fit: Literal["means", "likelihood"] = "likelihood"
    local_energy: Literal["lif", "rsf", "chan_vese", "none"] = "lif"
    alpha: float | int = ranged(0.5, least=0, most=10**6)
    beta: float | int = ranged(1.0, least=0, most=10**6)
    nu: float | int = ranged(0.0, least=0, most=10**6)
    mu: float | int = ranged(0.0, least=0, most=10**6)
    lambda1: float | int = ranged(1.0, least=0, most=10**6)
    lambda2: float | int = ranged(1.0, least=0, most=10**6)
    sigma: float | int = ranged(2.0, above=0, most=LARGEST_SIDE)
    sigma_unit: Literal["relative", "pixel"] = "relative"
    force_scale: Literal["intensity", "contrast"] = "contrast"
    epsilon: float | int = ranged(0.01, above=0, most=100)
    time_step: float | int = ranged(0.5, above=0, most=1000)
    zeta: float | int = ranged(0.8, above=0, most=10)
    zeta_clear: float | int | None = ranged(0.5, above=0, most=10)
    regulariser: Literal["gaussian", "variational"] = "gaussian"
    bound: float | int | None = ranged(1.0, above=0, most=1000)
    border: Literal["replicate", "matlab"] = "replicate"
    schedule: Literal["constant", "decay", "two_stage"] = "two_stage"
    saliency_steps: int = ranged(10, least=1, most=10**4)
    num_phases: int = ranged(1, least=1, most=2)
    init: Literal["saliency", "box", "disk", "full", "checkerboard", "corner_box"] = "saliency"
    initial_height: float | int = ranged(1.0, above=0, most=100)
    max_iterations: int = ranged(60, least=1, most=10**5)
    tolerance: float | int = ranged(1e-4, least=0, below=1)
    check_every: int = ranged(5, least=1, most=10**4)
    invert: bool = False

    @classmethod
    def from_preset(cls, name: str = "tuned", **settings: Any) -> Self:
        """Build the settings of a preset.

        Args:
            name: "tuned", ours; "plain", "paper_constant" and "variational", the functional as
                the abstract words it; "four_regions"; and the models it is built on, exactly:
                "lif", "lif_paper", "rsf", "chan_vese".
            **settings: Fields that differ from it.

        Raises:
            UnknownNameError: No such preset.
        """
        check_choice("preset", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **settings})

    def validate_combinations(self) -> None:
        """Settings must not contradict each other."""
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so nothing moves; raise one of them.")
        if self.mu * self.time_step >= 0.25:
            raise ValueError(
                f"time_step * mu must be below 0.25, or phi grows without limit; got "
                f"{self.mu * self.time_step:g}, so lower one of them."
            )
        if self.regulariser == "gaussian" and (self.nu or self.mu or self.border != "replicate"):
            raise ValueError(
                "nu, mu and border need regulariser='variational'; set it too, or leave them out."
            )
        weighs = self.num_phases == 1 and self.local_energy in ("rsf", "chan_vese")
        if not weighs and (self.lambda1 != 1 or self.lambda2 != 1):
            raise ValueError(
                "lambda1 and lambda2 need local_energy='rsf' or 'chan_vese'; set one of "
                "them, or leave both at 1."
            )
        for one in self.restoration:
            check_choice("restoration", one, ("spikes", "noise", "blur"))
        is_name = "/" in self.saliency or "\\" in self.saliency or "-" in self.saliency
        if not is_name:
            check_choice("saliency", self.saliency, SALIENCY_KINDS)
        is_contrast = self.force_scale == "contrast"
        if (self.saliency_fit == "likelihood" or is_contrast) and self.num_phases == 2:
            raise ValueError(
                "num_phases=2 has four regions, but saliency_fit='likelihood' and "
                "force_scale='contrast' know two; start from the preset 'four_regions'."
            )
        if (self.saliency_fit == "likelihood") != is_contrast:
            raise ValueError(
                "saliency_fit='likelihood' and force_scale='contrast' must be used "
                "together, because their forces are in [-1, 1]; set both or neither."
            )
        if is_contrast and self.saliency_scope != "global":
            raise ValueError("saliency_scope needs saliency_fit='means'; set it, or use 'global'.")
        if is_contrast and self.local_energy not in ("lif", "none"):
            raise ValueError(
                f"local_energy='{self.local_energy}' has forces in intensity units; set "
                "force_scale='intensity' and saliency_fit='means'."
            )
        if is_contrast and self.bound is None:
            raise ValueError("force_scale='contrast' needs a bound for phi, such as bound=1.0.")
        if self.init == "saliency" and self.saliency == "tensor" and self.alpha == 0:
            raise ValueError("init='saliency' with saliency='tensor' needs alpha above 0.")
