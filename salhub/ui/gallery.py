"""Which page shows which model, and all pages in one application."""

import os
from collections.abc import Mapping
from importlib import import_module

import gradio as gr

from salhub.entries import (
    METHODS,
    MODELS,
    TASKS,
    Model,
    find_entry,
    network_entry,
    setting_names,
)
from salhub.errors import UnknownNameError
from salhub.hub import canonical_name
from salhub.pipelines import pipeline_class_of
from salhub.ui.overview import build_overview


def page_class(name: str, entry: Model) -> type | None:
    """Return the class of a model's page: that of its kind where it serves it, else its task's.

    Args:
        name: The model.
        entry: What is known of its kind.

    Returns:
        The class; None where neither has a page.
    """
    own = f"{entry.home}.page_{entry.name}"
    try:
        page = import_module(own).Page
    except ModuleNotFoundError as error:
        if error.name is None or not f"{own}.".startswith(f"{error.name}."):
            raise
    else:
        if page.serves(name):
            return page
    task = TASKS.get(entry.task)
    return None if task is None else task.page_class


def build_page(name: str | os.PathLike, classifier: str | os.PathLike | None = None) -> gr.Blocks:
    """Build the web page of a model, with a sample already explained on it.

    Args:
        name: What `salhub.pipeline` takes: a shipped name with or without "salhub/", a folder, a
            Hub repository, or the name of a method; or a network by itself, ours or a classifier
            of transformers', which the first method for its kind explains.
        classifier: A network of your own that the method explains.

    Returns:
        Blocks to hand to `salhub.ui.launch`, or to put into an application of your own.

    Raises:
        UnknownNameError: The model belongs to no method of salhub, or its task has no page.
        ValueError: The method explains no classifier.
        ModelNotFoundError: Nothing of that name was found.

    Example:
        >>> from salhub.ui import build_page
        >>> page = build_page("salhub/normgrad-efficientnet-lite0")
        >>> page.title
        'NormGrad'
    """
    network = None if classifier is not None else network_entry(name)
    explainer = None if network is None else _explainer_of(network)
    if explainer is not None:
        name, classifier = explainer.name, canonical_name(name)
    found, entry = find_entry(name, classifier=classifier)
    full_name = found or entry.name
    if classifier is not None:
        classifier = os.fspath(classifier)
        kind = pipeline_class_of(entry, full_name)
        if "classifier" not in setting_names(entry, kind)[0]:
            what = f"'{name}'" if entry.method is None else f"The method '{entry.name}'"
            raise ValueError(f"{what} does not explain classifiers; leave classifier out.")
    page = page_class(full_name, entry)
    if page is None:
        pipeline_class_of(entry, full_name)
        raise UnknownNameError(
            f"Models of the task '{entry.task}' have no page yet; `salhub run` works for every "
            "model."
        )
    return page(full_name, entry, classifier).build()


def _explainer_of(network: Model) -> Model | None:
    """The first kind of model that explains a network by itself."""
    for entry in MODELS.values():
        if entry.method is None or not entry.is_ours or network.auto_class is None:
            continue
        if getattr(entry.model_class, "auto_class", None) == network.auto_class:
            return entry
    return None


def build_gallery(pages: Mapping[str, gr.Blocks] | None = None) -> gr.Blocks:
    """Put pages into one application with a bar to go from one to the other.

    Args:
        pages: Path of each page's address -> the page; by default an overview of all methods, and
            one page for every method that ships a model and has a page.

    Returns:
        Blocks to hand to `salhub.ui.launch`; the first page is what a visitor sees first.

    Raises:
        ValueError: There is no page.

    Example:
        >>> gallery = build_gallery()
        >>> [title for _, title, _ in gallery.pages][:3]
        ['Home', 'NormGrad', 'Salient Relevance']
    """
    if pages is None:
        defaults = [one.name for one in METHODS.values() if one.default]
        own = {name: build_page(name) for name in defaults if page_class(*find_entry(name))}
        addresses = {name: _address(name) for name in own}
        pages = {"": build_overview(own, addresses), **own}
    if not pages:
        raise ValueError("A gallery needs at least one page.")
    taken: set[str] = set()
    for path, page in pages.items():
        _name_endpoints(page, path, taken)
    (_, first), *others = pages.items()
    kept = next((page.delete_cache for page in pages.values() if page.delete_cache), None)
    with gr.Blocks(title="salhub", analytics_enabled=False, delete_cache=kept) as home:
        gr.Navbar(main_page_name=first.title)
        first.render()
    for path, page in others:
        with home.route(page.title, _address(path)):
            gr.Navbar(main_page_name=first.title)
            page.render()
    return home


def _address(path: str) -> str:
    return path.replace("_", "-")


def _name_endpoints(page: gr.Blocks, path: str, taken: set[str]) -> None:
    # Pages of a task call their endpoints alike; side by side they are told apart by their page.
    for function in page.fns.values():
        if function.api_visibility != "public" or not isinstance(function.api_name, str):
            continue
        name = function.api_name
        if name == "saliency" or name in taken:
            function.api_name = f"{path}_{name}" if path in taken else path
        taken.add(function.api_name)
