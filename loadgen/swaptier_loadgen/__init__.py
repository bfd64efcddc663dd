"""The load generator: races emulated hosts against a tier and proves, on every byte, what each policy does."""
