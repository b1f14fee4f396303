"""The client for language models: calls, batches, a journal of all that was paid for, and a cap that holds exactly."""
