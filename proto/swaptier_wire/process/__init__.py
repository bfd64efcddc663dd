"""What both programs are as processes: standard streams, files that flags name, and how they end."""
