"""Finding, verifying and loading models; prompts; the Encoder protocol and its engine."""
