"""What a week of work may meet: kills, faulty stores, several writers, hostile input, volume."""
