"""Who looks at images: judges of attributes, feature spaces, and how far images are apart."""
