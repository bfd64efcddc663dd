"""The core's paths under a scheduler that decides who runs: no network, no clock, no chance but a seed's."""
