"""What streams, launches and lines cost, as ratios to servers that do nothing else."""
