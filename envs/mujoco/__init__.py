"""MuJoCo tasks, batched: one definition of each task, simulated by MuJoCo's C library or by MuJoCo Warp."""
