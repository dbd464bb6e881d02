"""What a setting costs and what it keeps: quality and speed, measured."""
