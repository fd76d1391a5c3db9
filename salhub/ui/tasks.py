"""Which page shows which model: one page a task, and methods that bring a richer one."""

import os
from importlib import import_module

import gradio as gr

from salhub.entries import TASKS, Model, find_entry
from salhub.errors import UnknownNameError


def page_class(method: Model) -> type | None:
    """Return the class of a method's page: its own where there is one, else its task's, or None."""
    own = f"{method.home}.page_{method.name}"
    try:
        return import_module(own).Page
    except ModuleNotFoundError as error:
        if error.name is None or not f"{own}.".startswith(f"{error.name}."):
            raise
    task = TASKS.get(method.task)
    return None if task is None else task.page_class


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
    full_name, method = find_entry(name)
    page = page_class(method)
    if page is None:
        raise UnknownNameError(
            f"Models of the task '{method.task}' have no page yet; `salhub run` works for every "
            "model."
        )
    return page(full_name, method).build()
