"""Images and labels: where they come from, how they are split, ordered, augmented. No Lightning and no Hydra here."""
