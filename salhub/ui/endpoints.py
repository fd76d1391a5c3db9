"""What programs can ask of a page: the endpoint "/saliency", with documented parameters."""

from typing import Any

import gradio as gr

from salhub.pipelines.image_saliency_result import ImageSaliencyResult
from salhub.ui.downloads import array_file, file_stem, picture_file
from salhub.ui.faults import plain_errors
from salhub.ui.picture_input import PictureInput

# Files of the overlay and of the map, and the facts.
EndpointAnswer = tuple[str, str, dict[str, Any]]


def add_saliency_endpoint(page: Any) -> None:
    """Let programs explain pictures: `gradio_client` finds it as "/saliency".

    Args:
        page: An `ImageSaliencyPage`; names, defaults and help of the parameters are those of its
            method `saliency`.
    """
    with gr.Column(visible=False):
        inputs = [
            PictureInput(label="Picture"),
            gr.Textbox("", label="Class"),
            *page.endpoint_controls(),
        ]
        outputs = [
            gr.Image(label="Overlay", type="filepath", format="png"),
            gr.File(label="Map"),
            gr.JSON(label="Facts"),
        ]
        button = gr.Button()
    button.click(
        plain_errors(page.saliency),
        inputs,
        outputs,
        api_name="saliency",
        concurrency_id=f"page-{id(page)}",
    )


def endpoint_answer(result: ImageSaliencyResult, picture_name: str, method: str) -> EndpointAnswer:
    """Return what "/saliency" answers: files of the overlay and of the map, and the facts."""
    stem = file_stem(picture_name, method, result.label)
    return (
        picture_file(result.overlay(), stem),
        array_file(result.saliency, stem),
        result.to_dict(),
    )
