"""What happens beside the training: writing the run folder, saving checkpoints, watching for trouble, showing progress."""
