"""Question → retrieve → prompt → generate → attributed answer. The transformer of the InferenceService."""
