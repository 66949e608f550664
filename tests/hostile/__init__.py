"""Callers who mean harm, and what others see of them."""
