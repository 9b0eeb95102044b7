"""Recipes: YAML files whose headers say what they reach, what they cost and the command."""
