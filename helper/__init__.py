"""What the entry scripts are made of: options, device, objective, loop, run directory, checkpoints, reporting."""
