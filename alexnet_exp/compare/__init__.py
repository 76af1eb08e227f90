"""Which run was better, by how much, and whether it is noise: from run folders alone. No torch here."""
