"""Colours in which environments draw themselves, RGB; the colour-blind can tell them apart (Okabe and Ito's palette)."""

WALL = (60, 60, 60)
GOAL = (0, 158, 115)
AT_GOAL = (196, 232, 221)
"""Where the goal counts as reached."""
START = (170, 195, 235)
AGENT = (213, 94, 0)
