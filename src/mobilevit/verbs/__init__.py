"""What a user does: one file, one function, one result a verb."""
