"""Provides the execution of a sweep: the scheduler, its pools of processes or cluster jobs, workers, job locks."""
