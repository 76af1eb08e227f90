"""A run folder: what one holds, writing it, finding it and reading it back. No torch and no Lightning here."""
