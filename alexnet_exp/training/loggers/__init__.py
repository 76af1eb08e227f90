"""What each tracking system is told of a run beyond Lightning's own logger for it."""
