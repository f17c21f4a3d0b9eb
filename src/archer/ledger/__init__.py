"""The ledger: what was proposed, checked, run and judged, kept for good; and tables of what was tried before.

`records` holds the values, `store` the SQLite file (it imports SQLAlchemy, so import it where it is needed),
`history` the tables of earlier trials, `runs_csv` runs as CSV, `summary` scores from runs, `locking` one
process per project folder.
"""
