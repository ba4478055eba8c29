"""The engine that generates text inside Triton, and the mapping of its requests and responses to tensors."""
