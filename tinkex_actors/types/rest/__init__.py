"""What the listing, account and administration endpoints take and give (protocol 1.7.26 to 1.7.46, 2.7)."""
