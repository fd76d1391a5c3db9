"""What a visitor reads when something cannot be done: one plain sentence."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)

OUR_FAULT = (
    "This went wrong on our side, and it has been written to the log; try another picture or other "
    "settings."
)


def plain_sentence(error: Exception) -> str:
    """Return what to tell a visitor about an error.

    Our own messages are written for people and are passed on. Anything else is a fault of the
    program: it is logged with its traceback and not shown.

    Example:
        >>> plain_sentence(ValueError("The picture is empty; save it again."))
        'The picture is empty; save it again.'
    """
    if isinstance(error, gr.Error):
        return error.message
    # The system's own messages name files of the server; ours carry no error number.
    is_of_system = isinstance(error, OSError) and error.errno is not None
    if isinstance(error, ValueError | TypeError | OSError) and str(error) and not is_of_system:
        return str(error)
    logger.error("A page failed on a request.", exc_info=error)
    return OUR_FAULT


def plain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an endpoint answer clients with a plain sentence instead of a traceback."""

    @wraps(function)
    def guarded(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except Exception as error:
            raise gr.Error(plain_sentence(error), print_exception=False) from error

    return guarded
