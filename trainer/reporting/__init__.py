"""Figures and HTML pages that need nothing but themselves."""
