"""Films of episodes: pictures with a caption below, as a GIF or, where ffmpeg is, an MP4."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recall_traces.panels import plain

MOST_FRAMES = 240
"""Of a film; once there are more, every other one is left out."""
STRIP = 26
"""Pixels of the caption below a picture."""
LEAST_WIDTH = 300
"""Pixels; a smaller picture is drawn larger, a whole number of times."""
DPI = 100
NO_FFMPEG = "an .mp4 needs ffmpeg (Debian, Ubuntu: apt install ffmpeg; or pip install imageio-ffmpeg); a .gif needs nothing more"


class Film:
    """Frames in time order; of a long film only every second, fourth, ... frame is kept, and the last of each episode."""

    def __init__(self) -> None:
        self.frames: list[tuple[NDArray[np.uint8], str, bool]] = []
        """Picture, caption, and whether it ends an episode."""
        self.stride = 1
        """One frame of so many is kept."""
        self._skipped = 0

    def add(self, picture: NDArray[np.uint8], caption: str, last: bool = False) -> None:
        """Add a frame.

        Args:
            picture: RGB, `(height, width, 3)`; all of a film have one size.
            caption: One short line.
            last: Whether it ends an episode.
        """
        self._skipped += 1
        if self._skipped < self.stride and not last and self.frames:
            return
        self._skipped = 0
        self.frames.append((picture, caption, last))
        if len(self.frames) > MOST_FRAMES:
            self.frames = [frame for k, frame in enumerate(self.frames) if k % 2 == 0 or frame[2]]
            self.stride *= 2

    def write(self, out: str | Path, fps: int) -> Path:
        """Write the film; the last frame of an episode stays for a second.

        Args:
            out: Where, a .gif or .mp4 by its suffix; folders on the way are made.
            fps: Frames per second.

        Returns:
            The path of the film.

        Raises:
            ValueError: the suffix is neither, or ffmpeg is missing.
        """
        out = Path(out)
        ffmpeg = ""
        writer: PillowWriter | FFMpegWriter = PillowWriter(fps=fps)
        if check_film(out) == "mp4":
            ffmpeg, writer = ffmpeg_path(), FFMpegWriter(fps=fps, codec="h264", extra_args=["-pix_fmt", "yuv420p"])
        larger = math.ceil(LEAST_WIDTH / self.frames[0][0].shape[1])
        height, width = (larger * size for size in self.frames[0][0].shape[:2])
        width, height = width + width % 2, height + STRIP + height % 2  # which an .mp4 wants even
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        share = STRIP / height
        axes = figure.add_axes((0, share, 1, 1 - share))
        axes.set_axis_off()
        image = axes.imshow(self.frames[0][0], interpolation="nearest", aspect="auto")
        text = figure.text(0.5, share / 2, "", ha="center", va="center", fontsize=8.5)
        out.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"animation.ffmpeg_path": ffmpeg}), writer.saving(figure, str(out), DPI):
            for picture, caption, last in self.frames:
                image.set_data(picture)
                text.set_text(plain(caption))
                for _ in range(fps if last else 1):
                    writer.grab_frame()
        return out


def check_film(out: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        ValueError: it is none of a film, or ffmpeg is needed and missing.
    """
    form = out.suffix[1:].lower()
    if form not in ("gif", "mp4"):
        raise ValueError(f"{out} is no name of a film; it must end in .gif or .mp4")
    if form == "mp4":
        ffmpeg_path()
    return form


def ffmpeg_path() -> str:
    """Where ffmpeg is: matplotlib's, or that of imageio-ffmpeg.

    Raises:
        ValueError: there is neither.
    """
    if FFMpegWriter.isAvailable():
        return matplotlib.rcParams["animation.ffmpeg_path"]
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError(NO_FFMPEG)
    path: str = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    return path
