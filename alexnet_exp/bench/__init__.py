"""How fast an experiment trains on this machine, and where its time goes."""
