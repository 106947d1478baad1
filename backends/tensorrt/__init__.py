"""TensorRT tails: `tensorrt` writes the recipe that the target builds, `tensorrt-rtx` the engine.

One builder (`builder.py`) serves TensorRT 10.12 to 11 and TensorRT-RTX 1. It runs in a process of
its own, because some graphs crash NVIDIA's parser; nothing here imports TensorRT into this one,
except `engine.py`, on a machine with an NVIDIA driver.
"""
