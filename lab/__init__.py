"""What measures the system and breaks it. Not in the wheel, not in the image; nothing imports it."""
