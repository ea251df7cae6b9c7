"""What everything stands on: arrays, sizes, progress; nothing in here is public."""
