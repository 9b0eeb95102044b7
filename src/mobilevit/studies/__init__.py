"""Studies: several networks, or several recipes, trained side by side."""
