"""`salhub train salun-resnet8` and `salun-ddpm`: models to unlearn, or that never learned."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from salhub.backbones.cifar_resnet.recipe_cifar_resnet import (
    CifarResNetArguments,
    CifarResNetRecipe,
)
from salhub.backbones.conditional_unet.configuration_conditional_unet import ConditionalUNetConfig
from salhub.backbones.conditional_unet.recipe_conditional_unet import ConditionalUNetRecipe
from salhub.models.salun.configuration_salun_diffusion import SalUnDiffusionConfig
from salhub.models.salun.forget_set import record_retraining
from salhub.models.salun.modeling_salun import SalUnForImageClassification
from salhub.models.salun.modeling_salun_diffusion import SalUnForConditionalDiffusion


@dataclass(kw_only=True)
class SalUnClassifierArguments(CifarResNetArguments):
    """Options of `SalUnClassifierRecipe`: those of the shipped models unless given."""

    augment: bool = True
    num_train_epochs: int = 15


class SalUnClassifierRecipe(CifarResNetRecipe):
    """Trains a classifier for unlearning, or with `leave_out` the reference for comparison.

    Example:
        >>> options = {"output_dir": "out", "data": "cifar10.npz", "leave_out": "class:cat"}
        >>> arguments = SalUnClassifierArguments(**options)
        >>> SalUnClassifierRecipe(arguments).name
        'salun-resnet8'
    """

    name = "salun-resnet8"
    arguments_class = SalUnClassifierArguments

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        model = SalUnForImageClassification.from_classifier(super().build_classifier(class_names))
        record_retraining(model.config, self)
        return model


class SalUnDiffusionModelRecipe(ConditionalUNetRecipe):
    """Trains a diffusion model for unlearning, or with `leave_out` the reference."""

    name = "salun-ddpm"

    def build_network(
        self, config: ConditionalUNetConfig, class_names: list[str]
    ) -> PreTrainedModel:
        model = SalUnForConditionalDiffusion(
            SalUnDiffusionConfig(
                backbone_config=config,
                id2label=dict(enumerate(class_names)),
                label2id={name: index for index, name in enumerate(class_names)},
            )
        )
        record_retraining(model.config, self)
        return model
