"""Circuit discovery: which heads, and which paths between them, carry what attention contributes."""
