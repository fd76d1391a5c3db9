"""Maps as pictures: colours, overlays on photos, and figures with captions."""

from salhub.viz.colormaps import COLORMAPS, DIVERGING, SEQUENTIAL, colorize
from salhub.viz.figure import ColorBar, compare, message_panel, panels
from salhub.viz.overlay import overlay, paint, to_unit_range

__all__ = [
    "COLORMAPS",
    "DIVERGING",
    "SEQUENTIAL",
    "ColorBar",
    "colorize",
    "compare",
    "message_panel",
    "overlay",
    "paint",
    "panels",
    "to_unit_range",
]
