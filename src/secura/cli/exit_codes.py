"""How the `secura` command ends.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or stopped by Ctrl-C |
| 2 | done, but retention is below `--min-retention` |
| 143, 129 | stopped by SIGTERM or SIGHUP, which save as Ctrl-C does |
| 3 | wrong usage: an option, a setting, a file or a row that cannot be used, or a package that is not installed |
"""

DONE, FAILED, BELOW_RETENTION, USAGE = 0, 1, 2, 3
