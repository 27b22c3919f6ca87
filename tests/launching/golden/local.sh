#!/bin/sh
exec python -m supernet_jax.launching.run_processes 4 20 supernet search runs/a --coordinator '{coordinator}' --high 3e5
