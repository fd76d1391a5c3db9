"""Web pages of the models: `build_page(NAME)` makes one, `launch(page)` serves it.

`build_gallery()` puts the pages of all methods into one application.
"""

from salhub.errors import require_extra

require_extra("gradio", "demo")

from salhub.ui.gallery import build_gallery, build_page  # noqa: E402
from salhub.ui.launching import launch  # noqa: E402

__all__ = ["build_gallery", "build_page", "launch"]
