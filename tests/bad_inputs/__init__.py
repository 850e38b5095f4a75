"""Tests of refused input, by kind. `harness.refused` says what every refusal must satisfy.

Tables of damaged files lie beside the tests of their readers: `test_torch_pickle`, `test_safetensors_file`,
`test_converters`, `test_config`. Here bad input comes in by the front door.
"""
