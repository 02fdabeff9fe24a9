"""The validated study configuration: one pydantic model per section. Nothing here imports torch."""
