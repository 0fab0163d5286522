"""Where imitation by a squashed Gaussian stops, in our learners and in Stable-Baselines3's."""

INSIDE = 1 - 1e-3
"""Recorded actions at a bound are moved this far inside: there a squashed Gaussian has an infinite density."""

MAX_LOG_PROB = 1.0
"""Per action dimension, before the squashing: a policy this sure of recalled actions (a deviation of about 0.15) is not pulled
any further, or the same actions, imitated for long, would take all its noise away. Before the squashing, since after it an
action near a bound is likely under any policy that leans there."""
