"""Fuzzing of every parser of untrusted files.

    python -m tests.fuzz --cases 1000000 --seed 0          all targets alike
    python -m tests.fuzz --cases 5000 --target pickle      one of them

    targets.py      what is fuzzed: good files, and what reads them
    seeds.py        the good files, made by code
    mutator.py      bytes changed at random
    strategies.py   files that hypothesis makes up: JSON of any shape, programs for the pickle machine, headers
    guard.py        what a reader may not do, however strange its file
    run.py          cases one by one

A case passes where the file is read or refused with a BarkError. Another error, an import, a file, a process or a
socket that the file has no right to, memory beyond the bound and a case that takes too long are failures.
"""
