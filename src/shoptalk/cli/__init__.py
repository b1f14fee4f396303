"""The command line: one file a command or group, thin; it parses, calls the library and shows."""
