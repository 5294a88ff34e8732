"""What is left of a network that was pruned with a few unlabelled images."""
