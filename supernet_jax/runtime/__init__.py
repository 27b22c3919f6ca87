"""This machine and its devices: meshes, kernels, signals, progress. Nothing of networks."""
