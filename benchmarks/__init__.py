"""How fast Haulier is, beside plain Dramatiq and other job systems doing the same work on the same servers, in turn within one run (`make bench`).

Only ratios within one run mean anything: a machine's speed drifts. Processor time per job is steadier than jobs per second.
"""
