"""Teachers: where reference trajectories come from."""
