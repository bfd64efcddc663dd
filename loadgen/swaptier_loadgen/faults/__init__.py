"""What goes wrong on purpose between hosts and tiers, and what it did."""
