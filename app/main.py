"""The ASGI application: ``uvicorn app.main:app``."""
