"""A peer for `benchmark_fleet.py`: rejax's PPO on CartPole-v1, its whole training vmapped over seeds and compiled.

Set up apart from the project:  python -m venv /tmp/peer && /tmp/peer/bin/pip install rejax==0.1.3 gymnax==0.0.9 "jax<0.11"
Run:                            /tmp/peer/bin/python scripts/peers/rejax_ppo.py SEEDS STEPS

Prints JSON: environment steps per second of all seeds together, compilation excluded. The work per seed is the benchmark's: 8
environments, 128-step rollouts, 4 epochs of 4 minibatches, two hidden layers of 64 tanh units.
"""

import json
import sys
import time

import jax
from rejax import get_algo


def main(num_seeds: int, total_steps: int) -> None:
    algorithm = get_algo("ppo")
    ppo = algorithm.create(
        env="CartPole-v1",
        num_envs=8,
        num_steps=128,
        num_epochs=4,
        num_minibatches=4,
        total_timesteps=total_steps,
        eval_freq=total_steps,
        skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
    )
    keys = jax.random.split(jax.random.PRNGKey(0), num_seeds)
    train = jax.jit(jax.vmap(algorithm.train, in_axes=(None, 0))).lower(ppo, keys).compile()
    start = time.perf_counter()
    jax.block_until_ready(train(ppo, keys))
    print(json.dumps({"speed": num_seeds * total_steps / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
