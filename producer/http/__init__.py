"""The HTTP routes of users, products and orders."""
