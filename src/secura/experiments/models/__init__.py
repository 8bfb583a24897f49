"""The model a run starts from: loaded, recognised, and paired with what was made of it."""
