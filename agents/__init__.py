"""Learners that train a fleet of seeds in one program, one file each."""
