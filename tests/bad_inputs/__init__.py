"""A catalogue of bad input, by kind: what each must bring is in `harness.refused`.

Tables of damaged files lie beside the tests of their readers: `test_torch_pickle`, `test_safetensors_file`,
`test_converters`, `test_config`. Here bad input comes in by the front door.
"""
