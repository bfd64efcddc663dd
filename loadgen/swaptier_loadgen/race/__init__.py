"""A race: its settings, tiers, host processes, results."""
