"""Compares runs from their folders alone: which arm is better, by how much, and with what certainty. No torch."""
