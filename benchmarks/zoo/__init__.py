"""The networks that the coverage benchmark runs, and what it measures on each."""
