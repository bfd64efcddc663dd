"""The measurements: what the specification says, and two policies under one memory budget."""
