"""One suite per Protocol, which every registered member passes."""
