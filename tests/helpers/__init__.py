"""What several test files share: small models and data, commands in process and launched, a Hub on loopback."""
