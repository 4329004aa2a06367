"""Training that knows no algorithm and no world: state, step, loop, devices, checkpoints, signals, files.

Import its modules by name; each is small and says in its first line what it is for.
"""
