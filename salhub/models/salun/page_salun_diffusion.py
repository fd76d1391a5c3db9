"""The page of unlearned diffusion models: the same noise before and after a class was forgotten."""

import threading

import gradio as gr
from PIL import Image

from salhub.entries import Model
from salhub.models.salun.page_families import DiffusionFamily, UnlearningPage
from salhub.ui.faults import plain_errors
from salhub.ui.markup import sentence
from salhub.ui.tab import code_pane

_LARGEST_SEED = 9999


class Page(UnlearningPage):
    """Digits of every class by the original and by the unlearned model.

    Args:
        name: The unlearned model, a shipped one.
        method: Its method.
    """

    title = "SalUn for diffusion"
    sentence = "A generator of digits before and after it forgot one of them."

    def __init__(self, name: str, method: Model) -> None:
        super().__init__()
        self.family = DiffusionFamily(name)
        self.method = method

    def add_content(self) -> None:
        add_digits(self.family, self.lock)


def add_digits(family: DiffusionFamily, lock: threading.Lock) -> None:
    """Add two sheets of digits, and a button that draws others.

    Args:
        family: Draws them.
        lock: One request draws at a time.
    """

    def draw(seed: float) -> tuple[Image.Image, Image.Image, str]:
        """Digits 0 to 9, a row each, by both models from the same noise.

        Args:
            seed: Of the noise, 0 to 9999.

        Returns:
            The sheet of the original, that of the unlearned model, and the code that draws them.
        """
        if not 0 <= seed <= _LARGEST_SEED or seed != int(seed):
            raise ValueError(f"seed must be a whole number from 0 to {_LARGEST_SEED}.")
        with lock:
            before, after = family.sheets(int(seed))
        return before, after, family.sheets_code(int(seed))

    gr.HTML(
        sentence(
            f"One row a digit, from 0 at the top to 9. The second model forgot "
            f"{family.forgotten}: its row should show nothing that looks like one, and all other "
            "rows should stay what they were."
        )
    )
    titles = ("Before forgetting", "After forgetting")
    with gr.Row(equal_height=False):
        before, after = (
            _sheet(title, picture)
            for title, picture in zip(titles, family.stored_sheets(), strict=True)
        )
    with gr.Row(equal_height=True):
        seed = gr.Slider(0, _LARGEST_SEED, 0, step=1, label="Seed of the noise")
        button = gr.Button("Draw others", variant="primary", min_width=120, scale=0)
    code = code_pane(family.stored_sheets_code(), "Code that draws them")
    button.click(
        plain_errors(draw),
        seed,
        [before, after, code],
        api_name="draw",
        api_description="Sheets of digits before and after unlearning, and the code.",
    )


def _sheet(title: str, picture: Image.Image) -> gr.Image:
    # Titles stand above: on a phone a label would lie over the first digits.
    with gr.Column(min_width=150):
        gr.HTML(sentence(title))
        return gr.Image(
            picture,
            label=title,
            show_label=False,
            interactive=False,
            buttons=["download"],
            alt_text=f"Digits drawn {title.lower()}, a row for each from 0 to 9",
        )
