"""Configuration of DiSa and of the prompt learners that it is built on."""

from typing import Any, Literal, Self

from salhub.config_fields import ranged
from salhub.configuration import SaliencyConfig, strict
from salhub.errors import check_choice

Direction = Literal["origin", "centered", "l1"]
Saliency = Literal["text", "cls", "text*cls", "random", "inverse"]
MaskMode = Literal["drop", "attention", "zero"]
Preset = Literal["disa", "promptsrc", "ivlp", "coop", "zero_shot"]
PRESETS = ("disa", "promptsrc", "ivlp", "coop", "zero_shot")
# What presets say otherwise than the fields below, which are those of DiSa.
_WITHOUT_LOSSES = {"sr_weight": 0.0, "cir_weight": 0.0, "lambda_dir": 0.0, "mask_schedule": "none"}
_SETTINGS: dict[str, dict[str, Any]] = {
    "disa": {},
    "promptsrc": {
        **_WITHOUT_LOSSES,
        "sr_weight": 1.0,
        "text_l1_weight": 25.0,
        "image_l1_weight": 10.0,
        "kl_reduction": "numel",
        "gpa": True,
    },
    "ivlp": _WITHOUT_LOSSES,
    "coop": {
        **_WITHOUT_LOSSES,
        "n_ctx_vision": 0,
        "prompt_depth_vision": 0,
        "prompt_depth_text": 1,
    },
    "zero_shot": {
        **_WITHOUT_LOSSES,
        "n_ctx_text": 0,
        "n_ctx_vision": 0,
        "prompt_depth_text": 0,
        "prompt_depth_vision": 0,
    },
}


@strict
class DiSaConfig(SaliencyConfig):
    """Settings of `DiSaForImageClassification`: which CLIP, which prompts, how they are learned.

    The code of the paper is not published and its text was not available. [P] marks what is stated
    for the paper, [R] what is taken from the code of its relatives (CoOp, IVLP, PromptSRC), [D] our
    decision.

    Args:
        base_model_name_or_path: The CLIP of the prompts: a folder, a shipped name or a Hub
            repository; "./FOLDER" for one saved with the prompts.
        base_model_revision: Its revision on the Hub.
        base_config: Sizes of that CLIP, to detect a different one; set from it.
        base_fingerprint: Eight numbers of its weights, to detect another CLIP of the same sizes;
            set from it.
        class_names: Classes used if a call names none.
        class_descriptions: Class -> sentences that describe it, used instead of the templates for
            the frozen text features [D: their mean].
        templates: Sentences with "{}" for the name of a class, whose frozen text features are
            averaged; None for 60 of ours, similar to those of CLIP's authors [D].
        text_ensemble: Average the features as they are ("mean_raw") [R] or of length 1
            ("mean_normalized").
        method_preset: The method whose settings the others start from, see `from_preset`.
        n_ctx_text: Number of learned vectors in the text, after its first token [R].
        n_ctx_vision: Number of learned vectors after the patches [R].
        prompt_depth_text: Number of layers of the text encoder with learned vectors, counting the
            input as the first; later layers pass the last ones on [R].
        prompt_depth_vision: The same for the image encoder [R].
        ctx_init: Initial words of the text vectors, with as many tokens as there are vectors [R];
            None for noise.
        prompt_std: Standard deviation of vectors initialized with noise [R].
        sr_weight: Weight of the term that keeps scores close to those of the frozen CLIP [P: 1].
        cir_weight: Weight of the term that makes crossed pairs of encoders agree [P: 1].
        lambda_dir: Weight of the term that turns features towards class prototypes [D: 8 for
            ViT-B/16; 1 for tiny CLIPs].
        text_l1_weight: Weight of PromptSRC's mean absolute distance from the frozen text features
            [R: 25 there; no part of DiSa].
        image_l1_weight: The same for the image features [R: 10 there; no part of DiSa].
        kl_reduction: Sum over the classes ("batchmean") [D], or their mean ("numel"), which is
            weaker by the number of classes, as in PromptSRC [R].
        cir_stop_grad: Side of the crossed pair without gradients: "none", "left" (prompted
            images), "right" (prompted texts), or "symmetric", half of each [D].
        direction: Cosine from the origin ("origin"), from the mean of all prototypes ("centered"),
            or no direction but a distance ("l1"), which the paper argues against [D].
        saliency: Weight of a patch: its similarity to the frozen text of the class ("text"), the
            attention of the class token ("cls"), their product ("text*cls"), or the controls
            "random" and "inverse" [P: the frozen text guides; D: the map itself].
        saliency_temperature: Temperature of the softmax over patches in the map "text" [D].
        mask_ratio: Share of the patches that the prompted encoder does not see in the crossed term,
            in [0, 1) [D].
        mask_schedule: "constant"; "linear" from 0 over the first half of training; "none" [D].
        mask_mode: Masked patches are removed ("drop"), excluded from the keys of attention
            ("attention", the same numbers), or emptied ("zero") [D].
        single_pass: Use the masked features in all terms, which saves a pass [D].
        gpa: Average the prompts over epochs with Gaussian weights [R PromptSRC; off in DiSa].
        gpa_mean: Epoch, from 1, with the largest weight; None for three quarters of all [R: 15 of
            20].
        gpa_std: Width of that Gaussian in epochs [R].
        num_prototypes: Number of class prototypes saved with the prompts; set by `set_prototypes`.

    Raises:
        ValueError: A number out of its range, an unknown choice, or settings that contradict.

    Source: Alipour Talemi et al. 2025 (arXiv 2505.19373), KDD; Khattak et al. 2023 (arXiv
    2307.06948) for the marks [R].

    Example:
        >>> DiSaConfig.from_preset("ivlp").sr_weight, DiSaConfig(mask_ratio=0.5).sr_weight
        (0.0, 1.0)
    """

    model_type = "salhub_disa"
    loaded_fields = frozenset(
        {
            "base_config",
            "base_fingerprint",
            "base_model_name_or_path",
            "base_model_revision",
            "ctx_init",
            "method_preset",
            "n_ctx_text",
            "n_ctx_vision",
            "num_prototypes",
            "prompt_depth_text",
            "prompt_depth_vision",
            "prompt_std",
        }
    )

    training_fields = frozenset(
        {
            "base_config", "base_fingerprint", "method_preset", "n_ctx_text", "n_ctx_vision",
            "prompt_depth_text", "prompt_depth_vision", "ctx_init", "prompt_std", "sr_weight",
            "cir_weight", "lambda_dir", "text_l1_weight", "image_l1_weight", "kl_reduction",
            "cir_stop_grad", "direction", "mask_schedule", "mask_mode", "single_pass", "gpa",
            "gpa_mean", "gpa_std", "num_prototypes",
        }
    )  # fmt: skip

    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_config: dict[str, Any] | None = None
    base_fingerprint: list[float] | None = ranged(None, least=-1e6, most=1e6)
    class_names: list[str] | None = None
    class_descriptions: dict[str, list[str]] | None = None
    templates: list[str] | None = None
    text_ensemble: Literal["mean_raw", "mean_normalized"] = "mean_raw"
    method_preset: Preset = "disa"
    n_ctx_text: int = ranged(4, least=0, most=64)
    n_ctx_vision: int = ranged(4, least=0, most=256)
    prompt_depth_text: int = ranged(9, least=0, most=1024)
    prompt_depth_vision: int = ranged(9, least=0, most=1024)
    ctx_init: str | None = "a photo of a"
    prompt_std: float = ranged(0.02, least=0, most=10)
    sr_weight: float = ranged(1.0, least=0, most=1e6)
    cir_weight: float = ranged(1.0, least=0, most=1e6)
    lambda_dir: float = ranged(8.0, least=0, most=1e6)
    text_l1_weight: float = ranged(0.0, least=0, most=1e6)
    image_l1_weight: float = ranged(0.0, least=0, most=1e6)
    kl_reduction: Literal["batchmean", "numel"] = "batchmean"
    cir_stop_grad: Literal["none", "left", "right", "symmetric"] = "none"
    direction: Direction = "origin"
    saliency: Saliency = "text"
    saliency_temperature: float = ranged(0.07, above=0, most=100)
    mask_ratio: float = ranged(0.3, least=0, below=1)
    mask_schedule: Literal["constant", "linear", "none"] = "constant"
    mask_mode: MaskMode = "drop"
    single_pass: bool = False
    gpa: bool = False
    gpa_mean: float | int | None = ranged(None, least=0, most=1e6)
    gpa_std: float = ranged(1.0, above=0, most=1e6)
    num_prototypes: int = ranged(0, least=0, most=2**20)

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> Self:
        """The settings of one method, with others that are given.

        Args:
            preset: "disa"; "promptsrc"; "ivlp", prompts in both encoders by cross-entropy alone;
                "coop", prompts in the text alone; "zero_shot", the frozen CLIP.
            **settings: Other fields, which come before the preset's.

        Raises:
            ValueError: No such preset, or a bad value.
        """
        check_choice("method_preset", preset, PRESETS)
        return cls(**{**_SETTINGS[preset], "method_preset": preset, **settings})

    def validate_prompts(self) -> None:
        """Layers have prompts exactly where there are vectors."""
        for kind in ("text", "vision"):
            count, depth = getattr(self, f"n_ctx_{kind}"), getattr(self, f"prompt_depth_{kind}")
            if bool(count) != bool(depth):
                raise ValueError(
                    f"n_ctx_{kind} is {count} and prompt_depth_{kind} is {depth}; set both "
                    "to 0, or neither."
                )

    def validate_depth(self) -> None:
        """There are no more layers with prompts than the base has."""
        for kind in ("text", "vision"):
            layers = (self.base_config or {}).get(f"{kind}_layers")
            depth = getattr(self, f"prompt_depth_{kind}")
            if layers is not None and depth > layers:
                raise ValueError(
                    f"prompt_depth_{kind} is {depth}, but the base has {layers} layers there; give "
                    f"at most {layers}."
                )

    def validate_templates(self) -> None:
        """Templates have one place for the name of a class."""
        if self.templates is None:
            return
        wrong = next((one for one in self.templates if one.count("{}") != 1), None)
        if wrong is not None or not self.templates:
            raise ValueError(
                f"templates must be sentences with one {{}} for the class, got "
                f"{wrong if self.templates else 'none'!r}."
            )
