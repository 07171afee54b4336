"""How training samples are drawn: shares, passes, curricula and pairs."""
