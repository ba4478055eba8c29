"""The transformer of the InferenceService: retrieves, prompts, generates, and returns an attributed answer."""
