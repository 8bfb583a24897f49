"""What a fine-tune broke: two models asked the same, and what differs."""
