"""The page of SalUn: forget a class, and see what it costs and which weights it takes."""

import gradio as gr

from salhub.data.samples import sample_path
from salhub.entries import Model
from salhub.models.salun.page_families import ClassifierFamily, DiffusionFamily, UnlearningPage
from salhub.models.salun.page_salun_diffusion import add_digits
from salhub.ui.bars import BarRow, bar_rows
from salhub.ui.faults import plain_errors
from salhub.ui.markup import Fact, facts, sentence
from salhub.ui.picture_input import PictureInput, UploadedPicture
from salhub.ui.tab import code_pane

DIGITS = "salhub/salun-ddpm-mnist"
_TOP = 5


class Page(UnlearningPage):
    """Three tabs: each class of CIFAR-10 in turn, a picture of the visitor's, and digits.

    Args:
        name: The unlearned classifier, a shipped model.
        method: Its method.
    """

    title = "SalUn"
    sentence = "Make a trained network forget a class by moving only the weights that matter to it."

    def __init__(self, name: str, method: Model) -> None:
        super().__init__()
        self.family = ClassifierFamily(name)
        self.digits = DiffusionFamily(DIGITS)
        self.method = method

    def add_content(self) -> None:
        with gr.Tabs():
            with gr.Tab("Forget a class"):
                self._add_classes()
            with gr.Tab("Try a picture"):
                self._add_picture()
            with gr.Tab("Digits"):
                add_digits(self.digits, self.lock)

    # --- each class in turn -----------------------------------------------------------------------

    def _add_classes(self) -> None:
        first = self.family.forgotten
        chosen = gr.Radio(self.family.class_names, value=first, label="Class to forget")
        shown = self.show_class(first)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                accuracy = gr.HTML(shown[0])
            with gr.Column(min_width=320):
                density = gr.HTML(shown[1])
                code = code_pane(shown[2], "The command that does it", "shell")
                gr.HTML(self._shipped())
        chosen.input(
            plain_errors(self.show_class),
            chosen,
            [accuracy, density, code],
            api_name="forget",
            api_description="Bars of accuracy and of the mask's density, and the command.",
            show_progress="hidden",
        )

    def show_class(self, forgotten: str) -> tuple[str, str, str]:
        """What forgetting a class costs.

        Args:
            forgotten: A class of CIFAR-10, such as "cat".

        Returns:
            HTML of the accuracies, HTML of the densities, and the command.
        """
        if forgotten not in self.family.class_names:
            raise ValueError(
                f"'{forgotten}' is no class; choose one of {', '.join(self.family.class_names)}."
            )
        accuracies = bar_rows(
            f"Test pictures that are recognised, before and after forgetting '{forgotten}'. The "
            "forgotten class should fall to 0, the others should stay where they are.",
            ["before", "after"],
            [
                BarRow(name, (before, after), name == forgotten)
                for name, before, after in self.family.accuracies(forgotten)
            ],
        )
        densities = bar_rows(
            "Weights that were allowed to move, by part of the network from input to output. Over "
            "all, exactly half of them were; the others keep their bits.",
            ["open"],
            [BarRow(name, (share,)) for name, share in self.family.densities(forgotten)],
        )
        return accuracies, densities, self._command(forgotten)

    def _command(self, forgotten: str) -> str:
        return (
            f"salhub unlearn salun model={self.family.name}-original data=cifar10_jpeg.npz "
            f"forget=class:{forgotten} retain=random:10000 augment=true batch_size=128 "
            "num_train_epochs=2"
        )

    def _shipped(self) -> str:
        own, other = self.family.report(), self.family.report("retrained")
        gap = f"{own.average_gap(other):.2f} points"
        names = {
            "UA": "forgotten pictures not recognised",
            "RA": "retained pictures recognised",
            "TA": "test pictures of other classes recognised",
            "MIA": "forgotten pictures that look never seen to an attack",
        }
        items = [
            Fact(f"{value:.1f} %", name, f"{names[name]}; retrained: {other.headline[name]:.1f} %")
            for name, value in own.headline.items()
        ]
        text = (
            f"The shipped model forgot '{self.family.forgotten}' with all retained pictures. "
            "It should be like a model that was trained without them from the beginning; the mean "
            f"distance from that one is {gap}. This is approximate: it proves no removal, and "
            "fine-tuning can bring a class back."
        )
        return sentence(text) + facts(items)

    # --- a picture --------------------------------------------------------------------------------

    def _add_picture(self) -> None:
        sample = sample_path("cat")
        upload = UploadedPicture(sample, sample.name)
        before, after = self.classify(upload)
        gr.HTML(
            sentence(
                f"The original and the model that forgot '{self.family.forgotten}' look at the "
                "same picture. Both see only 32 x 32 pixels of it, and know ten classes."
            )
        )
        with gr.Row(equal_height=False):
            picture = PictureInput(
                sample,
                label="Picture",
                sources=["upload", "clipboard"],
                buttons=[],
                height=240,
                alt_text="The picture to classify",
            )
            first = gr.Label(before, label="Before forgetting", num_top_classes=_TOP)
            second = gr.Label(after, label="After forgetting", num_top_classes=_TOP)
        picture.upload(
            plain_errors(self.classify),
            picture,
            [first, second],
            api_name="classify",
            api_description="Probabilities of the classes before and after unlearning.",
        )

    def classify(
        self, picture: UploadedPicture | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """What a picture is taken for.

        Args:
            picture: The picture.

        Returns:
            Class -> probability, of the original and of the unlearned model.
        """
        if picture is None:
            raise ValueError("There is no picture; choose one.")
        image = picture.open()
        with self.lock:
            results = [one(image, top_k=10) for one in (self.family.before, self.family.after)]
        return [dict(zip(one.labels, one.scores, strict=True)) for one in results]
