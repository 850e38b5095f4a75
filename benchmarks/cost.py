"""Cost model of generation: seconds from bytes, FLOPs and launches, for any model size, number of slots and device.

    python -m benchmarks.cost            prints the tables of docs/job_time.md
    python -m benchmarks.cost --write    writes them into the page

A decoding step of B rows reads all weights once and every row's KV cache, and launches the kernels of every layer:

    step    = layers * launch + max(bytes / bandwidth, FLOPs / compute)
    pass    = launch of the pass + FLOPs / compute               a full sequence: a prompt, a window of the fine stage

An utterance of n semantic tokens takes n semantic steps, 3 n coarse ones, a prompt of 257 positions, one of 887 for
every 60 coarse tokens (each window, with a voice), six fine passes over 1,024 frames, and the codec. Slots share a
step, so its time is divided by their number. Rows share nothing else, so devices and machines divide the time of a job.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.models import Shape, make_config
from benchmarks.texts import mean_seconds

TOKENS_PER_S = 49.9
COARSE_PER_SEMANTIC = 2 * 75 / TOKENS_PER_S  # two codebooks of 75 frames a second
N_PROMPT, N_COARSE_PROMPT, WINDOW, FINE_FRAMES, FINE_PASSES = 257, 887, 60, 1024, 6
N_SEMANTIC_OUTPUTS, N_COARSE_OUTPUTS = 10_001, 1024
IDLE_STEPS = 16  # of a slot between the end of its row and the next poll: half a chunk of the engine
ROWS_PER_PASS = 8  # rows of a full-sequence pass at many slots; at fewer slots there are as many as slots
CODEC_FLOPS_PER_S = 3e9  # of audio, of EnCodec's decoder
CODEC_STEPS_PER_S = 2 * 75  # of audio: two LSTM layers, step by step
FLOAT_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Device:
    """Rates and latencies that decide the time of generation.

    Args:
      bandwidth: bytes a second that a copy, or reading a matrix, reaches.
      compute: FLOPs a second that products of full sequences reach.
      launch_s: seconds of launches a layer of a step, at one row and at several.
      pass_s: seconds of launches of a full-sequence pass.
      lstm_s: seconds of a step of one LSTM layer of the codec.
      is_measured: whether this project has run there; otherwise rates are computed from a data sheet.
    """

    name: str
    bandwidth: float
    compute: float
    launch_s: tuple[float, float]
    pass_s: float
    lstm_s: float
    is_measured: bool


# Measured on an H100 (benchmarks/RESULTS.md, "Speed on an H100"): the bandwidth is that of a copy. A semantic step of
# one row is 0.60 ms at a floor of 0.28, so 13 us a layer are launches; steps of 8, 16 and 64 rows lie on a line with
# 27 us a layer. Semantic prompts of 8, 16 and 64 rows lie on a line of 0.39 ms a row, 158 GFLOP: 405 TFLOP/s. A fine
# pass is 22.6 ms / 6, of which 1.8 ms are those products. The codec's 18.0 ms are 1,500 LSTM steps.
H100 = Device("NVIDIA H100 SXM", 2.4e12, 405e12, (13e-6, 27e-6), 2.0e-3, 12e-6, True)
H100_SHEET = (3.35e12, 989e12)  # bytes and dense bfloat16 FLOPs a second of the data sheet


def from_sheet(name: str, bandwidth: float, compute: float) -> Device:
    """A device by its data sheet, with the H100's shares of the sheet's rates, and the H100's latencies."""
    return dataclasses.replace(
        H100,
        name=name,
        bandwidth=bandwidth * H100.bandwidth / H100_SHEET[0],
        compute=compute * H100.compute / H100_SHEET[1],
        is_measured=False,
    )


# Bytes and dense bfloat16 FLOPs a second of the makers' data sheets.
ACCELERATORS = (
    H100,
    from_sheet("NVIDIA H200", 4.8e12, 989e12),
    from_sheet("NVIDIA A100 80 GB", 2.039e12, 312e12),
    from_sheet("NVIDIA L4", 0.3e12, 121e12),
    from_sheet("TPU v5e, one chip", 0.819e12, 197e12),
    from_sheet("TPU v6e, one chip", 1.64e12, 918e12),
)
# Two cores of a Zen 4, float32, one row (RESULTS.md, "AMD EPYC (Zen 4, AVX-512)"): 26.4 GB/s; a step of 19.9 ms at 75 %
# of the floor, so 0.41 ms a layer beyond it; products of the fine stage at 200 GFLOP/s; a codec of 0.31 s.
TWO_CORES = Device("two cores of an AMD EPYC (Zen 4)", 26.4e9, 200e9, (0.41e-3, 0.41e-3), 0.0, 0.1e-3, True)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of generation's parts on a device.

    Args:
      size: "small" or "large".
      dtype: of weights, activations and cache.
    """

    size: str
    dtype: str
    device: Device

    @property
    def _shape(self) -> Shape:
        part, n_bytes = make_config(self.size).semantic_config, FLOAT_BYTES[self.dtype]
        return Shape(part.num_layers, part.hidden_size, n_bytes, n_bytes)

    def step_s(self, n_rows: int, n_keys: float, n_outputs: int) -> float:
        """A decoding step of n_rows rows that attend to n_keys positions each."""
        shape, device = self._shape, self.device
        weights = 12 * shape.width**2 * shape.n_layers + shape.width * n_outputs
        flops = n_rows * (2 * weights + 4 * shape.width * shape.n_layers * n_keys)
        reading_s = shape.step_bytes(n_rows, n_keys, n_outputs) / device.bandwidth
        return shape.n_layers * device.launch_s[n_rows > 2] + max(reading_s, flops / device.compute)

    def pass_flops(self, n_positions: int, *, is_causal: bool) -> float:
        """FLOPs of a full-sequence pass of one row: the layers' products and attention, without the head."""
        shape = self._shape
        attention = (2 if is_causal else 4) * n_positions**2 * shape.width
        return shape.n_layers * (24 * shape.width**2 * n_positions + attention)

    def pass_s(self, n_positions: int, *, n_rows: int = 1, is_causal: bool = True) -> float:
        """A full-sequence pass, divided by the rows that share its launches."""
        flops = self.pass_flops(n_positions, is_causal=is_causal)
        return self.device.pass_s / min(n_rows, ROWS_PER_PASS) + flops / self.device.compute

    def coarse_step_s(self, n_rows: int) -> float:
        """A step of the coarse stage with a voice, with 1 / 60 of its window's prompt for every row."""
        step = self.step_s(n_rows, N_COARSE_PROMPT + WINDOW / 2, N_COARSE_OUTPUTS)
        return step + n_rows * self.pass_s(N_COARSE_PROMPT, n_rows=n_rows) / WINDOW

    def fine_s(self, n_rows: int = 1) -> float:
        """The fine stage of a row of up to 1,024 frames, 13.65 s."""
        return FINE_PASSES * self.pass_s(FINE_FRAMES, n_rows=n_rows, is_causal=False)

    def codec_s(self, audio_s: float, n_rows: int = 1) -> float:
        """The codec of a row."""
        latency = CODEC_STEPS_PER_S * self.device.lstm_s / min(n_rows, ROWS_PER_PASS)
        return audio_s * (latency + CODEC_FLOPS_PER_S / self.device.compute)

    def clip_s(self, audio_s: float) -> float:
        """A single row without a voice, whose first windows (630 coarse tokens) read no prompt again."""
        n_semantic = audio_s * TOKENS_PER_S
        n_coarse = n_semantic * COARSE_PER_SEMANTIC
        semantic = self.pass_s(N_PROMPT) + n_semantic * self.step_s(1, N_PROMPT + n_semantic / 2, N_SEMANTIC_OUTPUTS)
        n_windows = math.ceil(n_coarse / WINDOW)
        prompts = self.pass_s(N_PROMPT) + max(0, n_windows - 11) * self.pass_s(N_COARSE_PROMPT)
        coarse = n_coarse * self.step_s(1, N_COARSE_PROMPT + WINDOW / 2, N_COARSE_OUTPUTS)
        return semantic + prompts + coarse + self.fine_s() + self.codec_s(audio_s)

    def utterance_s(self, audio_s: float, n_slots: int) -> float:
        """Device time of an utterance with a voice, among as many others as there are slots."""
        n_semantic = audio_s * TOKENS_PER_S
        n_coarse = n_semantic * COARSE_PER_SEMANTIC
        semantic_step = self.step_s(n_slots, N_PROMPT + n_semantic / 2, N_SEMANTIC_OUTPUTS)
        idle = IDLE_STEPS if n_slots > 1 else 0
        return (
            self.pass_s(N_PROMPT, n_rows=n_slots)
            + (n_semantic + idle) * semantic_step / n_slots
            + n_coarse * self.coarse_step_s(n_slots) / n_slots
            + self.fine_s(n_slots)
            + self.codec_s(audio_s, n_slots)
        )

    def rate(self, audio_s: float, n_slots: int) -> float:
        """Seconds of audio a second, for utterances of audio_s seconds."""
        return audio_s / self.utterance_s(audio_s, n_slots)

    def job_s(self, n_lines: int, audio_s: float, n_slots: int, n_devices: int = 1) -> float:
        """A job of n_lines lines, loading and compiling not included; rows are divided among devices and machines.

        At the end slots run empty, until the last row has ended: as long as one utterance takes from start to end.
        """
        per_device = math.ceil(n_lines / n_devices)
        used = min(n_slots, per_device)
        return (per_device + used - 1) * self.utterance_s(audio_s, used)


def checks() -> Iterator[tuple[str, str, float, str, bool]]:
    """Measured times and the model's: (device, what, seconds computed, time as RESULTS.md prints it, is_used).

    A measured time is used if a constant of the device comes from it; the others test the model.
    """
    gpu, cpu = Cost("large", "bfloat16", H100), Cost("small", "float32", TWO_CORES)
    steps = {1: "0.60 ms", 8: "0.971 ms", 16: "1.151 ms", 64: "2.018 ms"}
    for n_rows, measured in steps.items():
        computed = gpu.step_s(n_rows, N_PROMPT + 200, N_SEMANTIC_OUTPUTS)
        yield H100.name, f"semantic step, rows: {n_rows}", computed, measured, True
    yield H100.name, "coarse step with its share of the prompt, rows: 1", gpu.coarse_step_s(1), "0.626 ms", False
    yield H100.name, "fine stage, rows: 1", gpu.fine_s(), "22.6 ms", True
    yield H100.name, "10 s clip, rows: 1", gpu.clip_s(10), "1,272 ms", False
    step = cpu.step_s(1, N_PROMPT + 52, N_SEMANTIC_OUTPUTS)
    yield TWO_CORES.name, "semantic step, rows: 1", step, "19.9 ms", True
    yield TWO_CORES.name, "coarse step with its share of the prompt, rows: 1", cpu.coarse_step_s(1), "29.5 ms", False
    yield TWO_CORES.name, "fine stage, rows: 1", cpu.fine_s(), "7.82 s", True
    yield TWO_CORES.name, "10 s clip, rows: 1", cpu.clip_s(10), "56.6 s", False


MINUTE, HOUR, DAY = 60, 3600, 86_400
LINES = (1_000, 100_000, 10_000_000)
SLOTS = 64
PAGE = Path(__file__).parents[1] / "docs" / "job_time.md"


def job_table(size: str) -> str:
    """Time of a job by its lines, on one of each accelerator, in bfloat16."""
    audio_s = mean_seconds()
    columns = " | ".join(f"{n:,} lines, computed" for n in LINES)
    head = f"| {size}, {SLOTS} slots | constants | audio seconds a second, computed | {columns} |"
    rows = [head, "|---" * (3 + len(LINES)) + "|"]
    for device in ACCELERATORS:
        cost = Cost(size, "bfloat16", device)
        times = [_duration(cost.job_s(n, audio_s, SLOTS)) for n in LINES]
        rates = "measured" if device.is_measured else "data sheet"
        rows.append(f"| {device.name} | {rates} | {cost.rate(audio_s, SLOTS):,.0f} | {' | '.join(times)} |")
    cost = Cost(size, "float32", TWO_CORES)
    times = [_duration(cost.job_s(n, audio_s, 1)) for n in LINES]
    rate = f"{cost.rate(audio_s, 1):.2f}"
    rows.append(f"| {TWO_CORES.name}, float32, one slot | measured | {rate} | {' | '.join(times)} |")
    return "\n".join(rows)


def scaling_table() -> str:
    """Time of a job of the large model by slots and by H100s."""
    audio_s, cost = mean_seconds(), Cost("large", "bfloat16", H100)
    rows = ["| large, H100 | audio seconds a second, computed | 1,000,000 lines, computed |", "|---|---|---|"]
    for n_slots in (1, 8, 16, 32, 64):
        time = _duration(cost.job_s(1_000_000, audio_s, n_slots))
        slots = "1 slot" if n_slots == 1 else f"{n_slots} slots"
        rows.append(f"| one device, {slots} | {cost.rate(audio_s, n_slots):,.0f} | {time} |")
    for n_devices in (8, 64):
        time = _duration(cost.job_s(1_000_000, audio_s, SLOTS, n_devices))
        rate = n_devices * cost.rate(audio_s, SLOTS)
        rows.append(f"| {n_devices} devices, {SLOTS} slots each | {rate:,.0f} | {time} |")
    return "\n".join(rows)


def check_table() -> str:
    """The model's times beside measured ones."""
    rows = ["| device | what | computed | measured | computed / measured | |", "|---|---|---|---|---|---|"]
    for device, what, computed_s, measured, is_used in checks():
        ratio = computed_s / parse_seconds(measured)
        used = "gave a constant" if is_used else "not used by the model"
        rows.append(f"| {device} | {what} | {_like(computed_s, measured)} | {measured} | {ratio:.2f} | {used} |")
    return "\n".join(rows)


TABLES = {
    "large": lambda: job_table("large"),
    "small": lambda: job_table("small"),
    "scaling": scaling_table,
    "checks": check_table,
    "lines": lambda: f"A line is taken to last {mean_seconds():.1f} s, the mean of benchmarks/texts.txt.",
}


def with_tables(page: str) -> str:
    """The page with every part between "<!-- NAME -->" and "<!-- end -->" replaced by the table of that name."""
    for name, make in TABLES.items():
        before, rest = page.split(f"<!-- {name} -->\n", 1)
        page = f"{before}<!-- {name} -->\n{make()}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return page


def parse_seconds(text: str) -> float:
    """Seconds of "0.60 ms", "1,272 ms" or "7.82 s"."""
    value, unit = text.split()
    return float(value.replace(",", "")) * {"ms": 1e-3, "s": 1.0}[unit]


def _like(seconds: float, text: str) -> str:
    """Seconds in the unit and with the decimals of another time."""
    value, unit = text.split()
    decimals = len(value.partition(".")[2])
    return f"{seconds / parse_seconds(f'1 {unit}'):,.{decimals}f} {unit}"


def _duration(seconds: float) -> str:
    for unit, name in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:,.1f} {name}" if seconds < 10 * unit else f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} s"


@click.command(help=__doc__.splitlines()[0])
@click.option("--write", "is_written", is_flag=True, help="Write the tables into docs/job_time.md.")
def main(is_written: bool) -> None:
    """Prints the tables, or writes them into the page."""
    if is_written:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, make in TABLES.items():
        click.echo(f"{name}\n\n{make()}\n")


if __name__ == "__main__":
    main()
