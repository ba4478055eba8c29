"""The engine that generates text inside Triton, and its request and response tensors."""
