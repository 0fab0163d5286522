"""Environments: many copies that step together on one device, ours, Gymnasium's and the user's own."""

from recall_traces.envs.registry import make, options_class, register, register_with_gymnasium, registered_ids

__all__ = ["make", "options_class", "register", "register_with_gymnasium", "registered_ids"]
