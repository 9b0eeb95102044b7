"""Pictures on disk: reading them, the folders they lie in, and what is wrong with them."""
