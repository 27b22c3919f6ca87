"""What a subnet is worth and what it costs."""
