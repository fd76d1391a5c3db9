"""Which page shows which model: one page a task, and methods that bring a richer one."""

import os
from importlib import import_module
from importlib.util import find_spec

import gradio as gr

from salhub.auto import Method
from salhub.errors import UnknownNameError
from salhub.pipelines import find_method

# Task -> where its page lives. A new task is a file here and one line.
TASK_PAGES: dict[str, tuple[str, str]] = {
    "image-saliency": ("salhub.ui.image_saliency", "ImageSaliencyPage"),
}
# A file in this package named after a method, with a class called `Page`, replaces the task's page.
METHOD_PAGES = "salhub.ui.pages"


def has_page(method: Method) -> bool:
    """Return whether models of a method can be shown as a page."""
    return method.task in TASK_PAGES or _has_own_page(method)


def page_class(method: Method) -> type:
    """Return the class of a method's page: its own where there is one, else its task's.

    Raises:
        UnknownNameError: The task has no page.
    """
    if _has_own_page(method):
        return import_module(f"{METHOD_PAGES}.{method.name}").Page
    if method.task not in TASK_PAGES:
        raise UnknownNameError(
            f"Models of the task '{method.task}' have no page yet; tasks with one are "
            f"{', '.join(TASK_PAGES)}. `salhub run` works for every model."
        )
    module, name = TASK_PAGES[method.task]
    return getattr(import_module(module), name)


def build_page(name: str | os.PathLike) -> gr.Blocks:
    """Build the web page of a model, with a sample already explained on it.

    Args:
        name: What `salhub.pipeline` takes: a shipped name with or without "salhub/", a folder, a
            Hub repository, or the name of a method.

    Returns:
        Blocks to hand to `salhub.ui.launch`, or to put into an application of your own.

    Raises:
        UnknownNameError: The model belongs to no method of salhub, or its task has no page.
        ModelNotFoundError: Nothing of that name was found.

    Example:
        >>> from salhub.ui import build_page
        >>> page = build_page("salhub/normgrad-efficientnet-lite0")
        >>> page.title
        'NormGrad'
    """
    full_name, method = find_method(name)
    return page_class(method)(full_name, method).build()


def _has_own_page(method: Method) -> bool:
    return find_spec(f"{METHOD_PAGES}.{method.name}") is not None
