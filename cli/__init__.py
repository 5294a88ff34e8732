"""The commands of graphprune, one file each."""
