"""`salhub train verbalizer`: a small text classifier, saved with what explains it."""

from pathlib import Path
from typing import Any

from salhub.backbones.text_classifier.recipe_text_classifier import (
    TextClassifierRecipe,
    save_in_half_precision,
)
from salhub.model_card import Facts
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel

USAGE = """
explain = salhub.pipeline("{model}")
print(explain("The first half is slow, but the leads are wonderful.").text)
"""


class VerbalizerRecipe(TextClassifierRecipe):
    """Trains a classifier of short texts, and saves it inside a verbalizer.

    Its options are those of `TextClassifierRecipe`.
    """

    name = "verbalizer"

    def export(self, model: Any, folder: Path) -> None:
        super().export(model, folder)
        save_in_half_precision(SaliencyVerbalizerModel.from_classifier(model), folder)

    def card_facts(self) -> Facts:
        learned = f"{len(self.train)} texts of {self.texts.name}"
        return Facts(
            summary=f"A text classifier trained on {learned}, with explanations in words.",
            example=USAGE,
            pipeline_tag="text-classification",
        )
