"""Maps as pictures: colours, overlays on photos, and figures with captions."""

from salhub.viz.bars import bars
from salhub.viz.colormaps import COLORMAPS, DIVERGING, SEQUENTIAL, colorize
from salhub.viz.figure import ColorBar, compare, message_panel, panels
from salhub.viz.grid import enlarge, picture_grid
from salhub.viz.overlay import overlay, paint, to_unit_range

__all__ = [
    "COLORMAPS",
    "DIVERGING",
    "SEQUENTIAL",
    "ColorBar",
    "bars",
    "colorize",
    "compare",
    "enlarge",
    "message_panel",
    "overlay",
    "paint",
    "panels",
    "picture_grid",
    "to_unit_range",
]
