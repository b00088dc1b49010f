"""What happens to files and readers when the machine fails: a campaign of faults, as long as is asked for."""
