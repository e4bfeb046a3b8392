"""Pictures of relevance. Nothing here knows a model."""

from relprop.pictures.colours import (
    PERCENTILE,
    Array,
    DrawingError,
    Pixels,
    heat_colours,
    overlay,
    robust_scale,
    scale_note,
    scale_words,
    step_colours,
)
from relprop.pictures.panel import Original, panel
from relprop.pictures.sheets import class_sheet, layer_sheet, map_sheet
from relprop.pictures.tiles import CONTRAST, PLAIN, SIGNED, Legend, Tile, legend_of, tile_sheet, write_png

__all__ = [
    "CONTRAST",
    "PERCENTILE",
    "PLAIN",
    "SIGNED",
    "Array",
    "DrawingError",
    "Legend",
    "Original",
    "Pixels",
    "Tile",
    "class_sheet",
    "heat_colours",
    "layer_sheet",
    "legend_of",
    "map_sheet",
    "overlay",
    "panel",
    "robust_scale",
    "scale_note",
    "scale_words",
    "step_colours",
    "tile_sheet",
    "write_png",
]
