"""Measurements of this project, each a script; what they gave lies in results/."""
