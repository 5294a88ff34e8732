"""Shapley estimators against each other, see shapley.py."""
