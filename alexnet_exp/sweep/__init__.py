"""Many experiments: planned and validated together, each in a process of its own, resumed where they stopped."""
