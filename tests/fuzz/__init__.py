"""Fuzzing of the wire, both sides: a few seconds in the normal test run.

For longer: `FUZZ_SECONDS=600 pytest tests/fuzz`. Each test goes on with new examples until its share of that
time is over. Findings become cases in tests/forward/.
"""
