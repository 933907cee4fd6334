"""What users are told: errors, other messages, and progress."""
