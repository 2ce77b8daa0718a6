"""Sphinx extension: the pages' pictures with a palette, a third as large, where nobody sees it.

matplotlib writes four channels. A plot has few colours, and 256 of them are enough, up to an error
that is bounded here; where they are not, as in some maps of colour, the picture stays as it is.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

MEAN, WORST = 0.6, 24  # of 255: the error of all pixels, and that of all but one in a thousand


def smaller(data: bytes) -> bytes:
    """The PNG with a palette, if that is smaller and looks the same; else as it was."""
    image = Image.open(io.BytesIO(data))
    if image.mode not in ("RGB", "RGBA"):
        return data
    if image.mode == "RGBA":
        if image.getchannel("A").getextrema()[0] < 255:  # something shines through
            return data
        image = image.convert("RGB")
    made = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    error = np.abs(np.asarray(image, dtype=int) - np.asarray(made.convert("RGB"), dtype=int))
    if error.mean() > MEAN or np.quantile(error.max(axis=-1), 0.999) > WORST:
        return data
    out = io.BytesIO()
    made.save(out, "PNG", optimize=True)
    return min(out.getvalue(), data, key=len)


def shrink(app, error) -> None:
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir, "_images").glob("*.png"):
        data = path.read_bytes()
        made = smaller(data)
        if len(made) < len(data):
            path.write_bytes(made)


def setup(app) -> dict:
    app.connect("build-finished", shrink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
