import importlib.machinery
import sys
import types

import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter
from PIL import Image

from recall_traces import film as films
from recall_traces.film import LEAST_WIDTH, MOST_FRAMES, NO_FFMPEG, STRIP, Film, check_film


def picture(colour, size=(20, 31)):
    return np.full((*size, 3), colour, np.uint8)


def read(path):
    """Every frame, RGB, and how long it stays, in milliseconds."""
    with Image.open(path) as image:
        frames, stays = [], []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
            stays.append(image.info["duration"])
    return frames, stays


def test_a_film_shows_its_pictures_and_captions(tmp_path):
    film = Film()
    colours = [(213, 94, 0), (0, 158, 115), (60, 60, 60)]
    for k, colour in enumerate(colours):
        film.add(picture(colour), f"step {k}, a prize of $1$", last=k == 2)
    out = film.write(tmp_path / "new" / "film.gif", fps=10)
    frames, stays = read(out)
    assert len(frames) == 3
    assert stays == [100, 100, 1000]
    for frame, colour in zip(frames, colours, strict=True):
        height, width, _ = frame.shape
        assert width >= LEAST_WIDTH
        assert height % 2 == width % 2 == 0
        assert (np.abs(frame[: height - STRIP - 1] - colour).max(-1) <= 3).all()
        strip = frame[height - STRIP + 2 :]
        assert (strip.max(-1) < 100).any(), "a caption in black"
        assert (strip.min(-1) > 250).mean() > 0.5, "on white"


def test_a_long_film_skips_frames_but_no_end_of_an_episode():
    film = Film()
    for k in range(10 * MOST_FRAMES):
        film.add(picture(0, (2, 2)), str(k), last=k % 1000 == 999)
    captions = [int(caption) for _, caption, _ in film.frames]
    assert MOST_FRAMES // 2 - 2 <= len(captions) <= MOST_FRAMES
    assert captions == sorted(captions)
    assert {999, 1999} <= set(captions)
    assert captions[0] == 0
    assert np.diff(captions).max() <= 2 * film.stride


def test_what_is_no_film(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"film.png is no name of a film; it must end in .gif or .mp4"):
        check_film(tmp_path / "film.png")
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    monkeypatch.setattr(films.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs ffmpeg") as caught:
        check_film(tmp_path / "film.mp4")
    assert str(caught.value) == NO_FFMPEG


def test_ffmpeg_of_imageio_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    module = types.ModuleType("imageio_ffmpeg")
    module.__spec__ = importlib.machinery.ModuleSpec("imageio_ffmpeg", None)
    module.get_ffmpeg_exe = lambda: "/somewhere/ffmpeg"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", module)
    assert check_film(tmp_path / "film.mp4") == "mp4"
    assert films.ffmpeg_path() == "/somewhere/ffmpeg"


def test_an_mp4(tmp_path):
    try:
        films.ffmpeg_path()
    except ValueError as error:
        pytest.skip(str(error))
    film = Film()
    film.add(picture(100), "step 0", last=True)
    assert film.write(tmp_path / "film.mp4", fps=5).stat().st_size > 500
