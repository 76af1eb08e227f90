"""What happens beside the training: recording, saving checkpoints, watching for trouble, showing progress."""
