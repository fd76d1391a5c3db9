"""`salhub unlearn apply-delta`: the unlearned model of the original and what has changed."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor

from salhub.data.labelled_split import FILE_NAME as SPLIT_NAME
from salhub.data.split_beside import find_file
from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.hub import canonical_name, load, read_config
from salhub.model_card import Facts
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig
from salhub.models.salun.masked_recipe import RECORD_NAME
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion
from salhub.models.salun.weight_delta import FILE_NAME as DELTA_NAME
from salhub.models.salun.weight_delta import apply_delta
from salhub.models.salun.weight_mask import FILE_NAME as MASK_NAME
from salhub.results import Results
from salhub.runner.arguments import RunArguments
from salhub.runner.image_classification import USAGE
from salhub.runner.recipe import FitRecipe
from salhub.runner.sources import MODEL

# What a run of unlearning writes beside the weights.
_BESIDE = (MASK_NAME, DELTA_NAME, SPLIT_NAME, RECORD_NAME)


@dataclass(kw_only=True)
class DeltaArguments(RunArguments):
    """Options of `DeltaRecipe`.

    Args:
        model: The original: a folder, a shipped name or a Hub repository.
        delta: Folder or Hub repository with `delta.safetensors` and `mask.safetensors`, as saved
            with `save_delta=true`; the full weights are not needed. You can also give the file
            itself.
    """

    model: str
    delta: str

    def validate(self) -> None:
        """Check the options of every run, and that it does not write where it reads."""
        super().validate()
        self.model = canonical_name(self.model)
        delta, target = Path(self.delta), Path(self.output_dir)
        if delta.is_file():
            delta = delta.parent
            self.delta = str(delta)
        if delta.is_dir() and target.is_dir() and delta.samefile(target):
            raise ValueError(
                f"output_dir is the folder of delta={delta}, and its files would be lost; "
                "choose another output_dir."
            )


class DeltaRecipe(FitRecipe):
    """Rebuilds an unlearned model from its original and the saved changes, bit for bit.

    Example:
        >>> arguments = DeltaArguments(output_dir="out", model="original", delta="forgot")
        >>> DeltaRecipe(arguments).verb
        'unlearn'
    """

    name = "apply-delta"
    verb = "unlearn"
    arguments_class = DeltaArguments
    sources = {**FitRecipe.sources, "model": MODEL, "delta": DELTA_NAME}
    optional_files = (MASK_NAME, DELTA_NAME)

    def learned_options(self) -> dict[str, Any]:
        # Folders of this machine do not matter, but what is in them does, see `sources`.
        options = super().learned_options()
        places = {name: Path(options[name]) for name in ("model", "delta")}
        return options | {name: path.name for name, path in places.items() if path.exists()}

    def build_model(self) -> nn.Module:
        name, delta = self.arguments.model, self.arguments.delta
        # Asked for one by one, as those of a Hub repository are fetched one by one.
        self.beside = {file: find_file(delta, file) for file in _BESIDE}
        for file in (DELTA_NAME, MASK_NAME):
            if self.beside[file] is None:
                raise FileNotFoundError(
                    f"{delta} has no {file}; give a folder written by `salhub unlearn ... "
                    "save_delta=true`."
                )
        self.image_processor = None
        if read_config(name).get("model_type") == SalUnDiffusionConfig.model_type:
            return SalUnForConditionalDiffusion.from_pretrained(name, dtype=torch.float32)
        self.image_processor = load(AutoImageProcessor, name)
        return load_classifier(name)

    def fit(self, model: Any, accelerator: Any) -> None:
        apply_delta(model, self.beside[DELTA_NAME].parent)
        if find_file(self.arguments.delta, "config.json") is not None:
            # It says what was forgotten.
            model.config = type(model.config).from_pretrained(self.arguments.delta)

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        """Nothing is measured: the model has the bits of the one that was."""

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        if self.image_processor is not None:
            self.image_processor.save_pretrained(folder)
        for file, path in self.beside.items():
            if path is not None:
                shutil.copyfile(path, folder / file)

    def card_facts(self) -> Facts:
        model, delta = (Path(name).name for name in (self.arguments.model, self.arguments.delta))
        is_classifier = self.image_processor is not None
        return Facts(
            summary=f"Made from {model} and the changed weights in {delta}, bit for bit.",
            example=USAGE if is_classifier else "",
            pipeline_tag="image-classification"
            if is_classifier
            else "unconditional-image-generation",
            base_model=None if Path(self.arguments.model).exists() else self.arguments.model,
            tags=("machine-unlearning",),
        )
