"""The network as data: its settings (`spec`), its shapes and counts, and the torch modules built from them.

`spec`, `shapes` and `count` never import torch, so that settings are checked and `summary` is printed without it.
"""
