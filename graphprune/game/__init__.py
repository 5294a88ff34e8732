"""Games: units are players, coalitions are sets of kept units, values are performances."""
