"""The network: its settings (spec.py), its shapes and costs, and the torch modules built from them (network.py).

spec.py, completion.py, shapes.py, cost.py, memory.py and columns_layout.py do not import torch, so that settings are
checked and `summary` is printed without it.
"""
