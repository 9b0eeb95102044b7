"""Recipes, the training function, the run folder."""
