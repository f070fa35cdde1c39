"""The user's command ``tidb-backup``, also ``kubectl tidb-backup``: what was done, what will be done, and why.

One module a command under :mod:`cli.commands`; each returns an :class:`cli.output.Answer`, and :mod:`cli.output` alone writes.
Nothing here decides: retention, slots and statuses come from the hooks' own code in :mod:`app`.
"""
