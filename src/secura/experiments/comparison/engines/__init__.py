"""Where the runs of a grid are carried out: this machine, a Ray cluster, a Slurm cluster."""
