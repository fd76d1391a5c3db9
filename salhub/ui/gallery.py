"""Several pages in one application, each at its own address."""

from collections.abc import Mapping

import gradio as gr

from salhub.entries import MODELS
from salhub.ui.tasks import build_page, page_class


def build_gallery(pages: Mapping[str, gr.Blocks] | None = None) -> gr.Blocks:
    """Put pages into one application with a bar to go from one to the other.

    Args:
        pages: Path of each page's address -> the page; by default one page for every method that
            ships a model and has a page.

    Returns:
        Blocks to hand to `salhub.ui.launch`; the first page is what a visitor sees first.

    Raises:
        ValueError: There is no page.

    Example:
        >>> gallery = build_gallery()
        >>> [title for _, title, _ in gallery.pages][:3]
        ['Home', 'Salient Relevance', 'LexRank']
    """
    if pages is None:
        shown = [one.name for one in MODELS.values() if one.default_model and page_class(one)]
        pages = {name: build_page(name) for name in shown}
    if not pages:
        raise ValueError("A gallery needs at least one page.")
    for path, page in pages.items():
        _name_endpoint(page, path)
    (_, first), *others = pages.items()
    with gr.Blocks(
        title="salhub", analytics_enabled=False, delete_cache=first.delete_cache
    ) as home:
        gr.Navbar(main_page_name=first.title)
        first.render()
    for path, page in others:
        with home.route(page.title, path.replace("_", "-")):
            gr.Navbar(main_page_name=first.title)
            page.render()
    return home


def _name_endpoint(page: gr.Blocks, path: str) -> None:
    # Every page calls its endpoint "/saliency"; side by side they are told apart by their page.
    for function in page.fns.values():
        if function.api_name == "saliency":
            function.api_name = path
