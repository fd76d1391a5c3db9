"""Web pages of the models: `build_page(NAME)` makes one, `launch(page)` serves it."""

from salhub.errors import require_extra

require_extra("gradio", "demo")

from salhub.ui.launching import launch  # noqa: E402
from salhub.ui.tasks import build_page  # noqa: E402

__all__ = ["build_page", "launch"]
