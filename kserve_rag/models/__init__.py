"""The catalogue of models, and how a model gets onto this machine."""
