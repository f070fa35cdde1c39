"""A deterministic model of concurrency: managers and cleaners run their real code on one bucket in memory, one at a time.

Every call to the store, to Kubernetes or to a database is a point where a plan decides who goes on, who crashes, who freezes
and which call fails. The same plan gives the same history, so that a failure can be printed, shortened and kept.

* :mod:`.scheduler`: processes as threads that hand one baton over; virtual time.
* :mod:`.plan`: a history as data: what the user does, and where the plan interferes.
* :mod:`.store`, :mod:`.cluster`, :mod:`.tools`: what the real code is given for S3, Kubernetes, dumpling, br and lightning.
* :mod:`.patches`: how it is given.
* :mod:`.world`: the CRs, and the Jobs that the hook would make for them.
* :mod:`.watch`: what must hold at each step and at the end.
* :mod:`.histories`: making plans at random, running them, shortening those that fail.
* :mod:`.script`: a history written by hand, step by step.
"""
