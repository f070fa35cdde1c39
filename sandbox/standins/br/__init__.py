"""Stand-ins, named as such, for what the real tools of the sandbox cannot do: the images ``stand-in-br`` and ``stand-in-tikv``.

========================= ==========================================================================================
tool                      what is real, and what is not
========================= ==========================================================================================
:mod:`br` (``/br``)       the real br does everything that it knows; its flags alone decide what is refused. Only what came
                          after it is put in its words (``--restore-phase``), or answered (``abort``)
:mod:`tikv_ctl`           nothing is real: ``compact-log-backup`` moves marked objects, so that what was compacted, and by
(``/tikv-ctl``)           which shard, can be counted. Its flags are those that TiDB Operator passes to it
========================= ==========================================================================================

They are no part of any image that is built, and nothing but the sandbox's node agent knows their names. ``STAND_IN_FAIL`` in
``spec.env`` of a CR orders a failure; see each module.
"""
