"""Provides the loggers of a run: TensorBoard, Weights & Biases and MLflow behind one interface."""
