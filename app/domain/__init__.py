"""Pure decisions: (spec, status, children, related, now) -> :class:`app.domain.decision.Decision`.

No I/O, no clock, no environment in here; import contracts and a test hold that.
"""
