"""What the tests have in common, a module a concern."""
