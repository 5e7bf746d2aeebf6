"""Write the tables of docs/ from code and tests: .venv/bin/python tests/refresh_docs.py"""

import inspect
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import test_cli
import test_config
import test_config_runs
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from refresh_readme import between

from manyviews.config import paths
from manyviews.config.files import read_json, write_text
from manyviews.config.profiles import load_profile, profile_names
from manyviews.config.runs import ORIGINAL, Comparison, RunSpec, configure, deduplicate, run_specs
from manyviews.config.schema import Profile, RunConfig, Section
from manyviews.runs.environment import number_format
from manyviews.runs.run import FORWARDS_OF_A_TRAINING_STEP, make_model
from manyviews.simclr.models import count_macs, count_parameters

RELIABILITY = paths.ROOT / "docs" / "reliability.md"
WRONG_INPUTS = {  # by test, what its parameters are
    test_cli.test_a_wrong_option_lists_the_valid_ones: "option",
    test_config.test_a_mistake_is_named_with_the_fix: "key",
    test_config.test_a_bad_profile_is_named_with_its_file: "profile",
    test_config_runs.test_a_mistake_in_the_file_is_named: "line of runs.yaml",
}
REFERENCE = paths.ROOT / "docs" / "reference.md"
SCALE = paths.ROOT / "docs" / "scale.md"
OF_THE_PEAK = 0.2  # assumed of the networks at 64 pixels
BETWEEN_DEVICES = 25e9  # bytes a second, assumed
BEGIN, END = "<!-- tables: written by tests/refresh_docs.py -->", "<!-- end of tables -->"
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
TYPES = {"integer": "whole number", "boolean": "true or false", "string": "text", "object": "keys and values"}
SIZES = ("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class", "image_size")
SHOWN_APART = ("depth", "stem", "n_views")  # columns of the table of runs


def tables_text() -> str:
    """Profiles, keys and runs, a table each."""
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items() if is_section(field)}
    own = [name for name in RunConfig.model_fields if name not in Profile.model_fields]
    of_line = [name for name in RunSpec.model_fields if name not in RunConfig.model_fields]
    general = [name for name in Profile.model_fields if name not in sections]
    parts = ["## Profiles", profiles(), "## Keys of a profile", keys(Profile, general)]
    for name, section in sections.items():
        parts += [f"### {name}", inspect.getdoc(section).splitlines()[0], keys(section)]
    parts += [
        "## Keys of a run",
        "A configuration as a run keeps it, `config.json`, has these beside those of its profile.",
        keys(RunConfig, own),
        "## Keys of a line of runs.yaml",
        "Beside `objective`, `depth`, `stem` and `n_views`, and any key of the sections `network`, `views`, "
        "`training` and `evaluation`:",
        keys(RunSpec, of_line),
        "A comparison has:",
        keys(Comparison),
        "## Runs",
        runs(),
        "## Comparisons",
        comparisons(),
    ]
    return "\n\n".join(parts)


def is_section(field: Any) -> bool:
    """Whether a field holds keys of its own."""
    return inspect.isclass(field.annotation) and issubclass(field.annotation, Section)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def keys(section: type[BaseModel], names: Sequence[str] = ()) -> str:
    """Key, type, default and comment of each field of a section, or of some."""
    schema, comments = section.model_json_schema(), comments_of(section)
    rows = []
    for name in names or section.model_fields:
        default = section.model_fields[name].get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{as_yaml(default)}`"
        rows.append([f"`{name}`", type_of(schema["properties"][name]), shown, comments[name]])
    return table(["key", "type", "default", "comment"], rows)


def comments_of(section: type[BaseModel]) -> dict[str, str]:
    """What the source says of each field: in lines of comment above it, and behind it."""
    comments, above = {}, []
    for line in inspect.getsource(section).splitlines():
        code, _, comment = line.partition("#")
        field = re.match(r"    (\w+): ", code)
        if field:
            words = " ".join([*above, comment.strip()]).strip()
            comments[field[1]] = re.sub(r"\bNone\b", "`null`", words)
        above = [*above, comment.strip()] if comment and not code.strip() else []
    return comments


def type_of(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        kinds = [type_of(kind) for kind in schema["anyOf"]]
        return "; or ".join(kind for kind in kinds if not (kind == "whole number" and "number" in kinds))
    if "enum" in schema:
        return " or ".join(f"`{as_yaml(value)}`" for value in schema["enum"])
    if schema["type"] == "null":
        return "`null`"
    if schema["type"] == "array":
        items = schema.get("prefixItems", [])
        return f"list of {len(items) or 'any length'}, each {type_of((items or [schema['items']])[0])}"
    if "pattern" in schema:
        return f"text of the form `{schema['pattern']}`"
    words = TYPES.get(schema["type"], schema["type"])
    limits = [f"{phrase} {schema[key]:.12g}" for key, phrase in BOUNDS.items() if key in schema]
    return ", ".join([words, *limits])


def as_yaml(value: Any) -> str:
    """A value as a profile has it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(as_yaml, value))}]"
    if value is None or value == "" or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def profiles() -> str:
    """Images, network and length of each profile; "all" is as many as there are."""
    rows = []
    for name in profile_names():
        of = load_profile(name)
        sizes = ["all" if (size := getattr(of.data, key)) is None else size for key in SIZES]
        training = [of.network.width, of.training.epochs, of.training.batch_size]
        rows.append([f"`{name}`", of.data.name, *sizes, *training, ", ".join(map(str, of.seeds))])
    images = [
        "images",
        "classes",
        "unseen classes",
        "training a class",
        "validation a class",
        "unseen a class",
    ]
    return table(["profile", *images, "px", "width", "epochs", "pairs in a batch", "seeds"], rows)


def runs() -> str:
    """The runs of runs.yaml, in its order."""
    rows = []
    for name, spec in run_specs().runs.items():
        changes = spec.model_dump(exclude_defaults=True, exclude={"title", "comparisons", *SHOWN_APART})
        flat = {}
        for key, value in changes.items():
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        words = ", ".join(f"`{key}: {as_yaml(value)}`" for key, value in flat.items())
        apart = [getattr(spec, key) for key in SHOWN_APART]
        rows.append([f"`{name}`", spec.title, *apart, words, ", ".join(spec.comparisons)])
    return table(["run", "title", *SHOWN_APART, "departs from the profile in", "comparisons"], rows)


def comparisons() -> str:
    """The comparisons of runs.yaml."""
    rows = [
        [f"`{name}`", of.study, of.title, of.question, f"`{of.reference}`", of.claim or ""]
        for name, of in run_specs().comparisons.items()
    ]
    return table(["comparison", "study", "title", "question", "reference", "claim"], rows)


def with_tables(page: str) -> str:
    """The page with the tables between its two marks."""
    return between(page, BEGIN, END, tables_text())


def measured() -> str:
    """What was measured on a GPU."""
    of, title = read_json(paths.ROOT / "benchmarks" / "gpu.json"), run_specs().title
    rows = [
        [f"{title(run)}: {kind}", f"{ms:.1f} ms a step"]
        for run, kinds in of["milliseconds_of_a_step"].items()
        for kind, ms in kinds.items()
    ]
    rows.append(["matrix product, the peak", f"{of['peak_tflops']} TFLOP/s"])
    rows.append(
        ["16 processes on the card, probes included", f"{of['steps_per_second_of_16_processes']} steps/s"]
    )
    made = (
        f"`tiny-imagenet-tenth` on one {of['device']}, {of['date']}, torch {of['torch']}, {of['precision']}"
    )
    return table([made, "measured once"], rows)


def efficiency_of_processes() -> str:
    """What two processes reach on two cores, from the benchmarks."""
    kept = read_json(paths.ROOT / "benchmarks" / "results.json")["processes"]
    rows = []
    for row in kept["rows"]:
        ratio = "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["times"]) if "times" in row else ""
        network, rate = row["case"].removeprefix("processes: "), f"{row['median']:,.0f}"
        rows.append([network, f"{row['contender']}, {row['note']}", rate, ratio])
    of = kept["environment"]
    made = f"network, on two cores of {of['device']}, {number_format(of)}, {kept['date']}"
    headers = [made, "how", "views per second", "two processes for one run, beside this"]
    return table(headers, rows)


def seconds_of_compute(views: float, macs: float) -> float:
    """One device's time for views of a network that takes so many multiply-adds forward."""
    peak = read_json(paths.ROOT / "benchmarks" / "gpu.json")["peak_tflops"] * 1e12
    return 2 * FORWARDS_OF_A_TRAINING_STEP * macs * views / (OF_THE_PEAK * peak)


def hours_of_studies() -> str:
    """GPU-hours of the original's runs and the supervised baseline, and of all runs, on two datasets."""
    rows, macs = [], {}
    profile = load_profile("tiny-imagenet")
    for what, names in {
        "the original's runs": run_specs().of_study(ORIGINAL),
        "all runs": list(run_specs().runs),
    }.items():
        for data, images in {"100 classes of 500": 50_000, "ImageNet-1k": 1_281_167}.items():
            hours, workers = 0.0, dict.fromkeys(deduplicate(names, profile).values())
            for config in (configure(name, profile, 0) for name in workers):
                kind = (config.depth, config.stem, config.network.width, config.view_size)
                if kind not in macs:
                    macs[kind] = count_macs(make_model(config, 100), config.view_size)
                views = config.training.epochs * config.n_views * config.training.image_fraction * images
                hours += seconds_of_compute(views, macs[kind]) / 3600
            rows.append([what, data, len(workers), f"{hours:.1f}", f"{3 * hours:.0f}"])
    return table(["what", "images", "trainings", "GPU-hours, one seed", "three seeds"], rows)


def efficiency() -> str:
    """What a step of ResNet-18 at 64 pixels computes and sends on several devices."""
    config = configure("baseline", load_profile("tiny-imagenet"), 0)
    model = make_model(config, 100)
    macs, weights = count_macs(model, config.view_size), count_parameters(model)
    rows = []
    for pairs, devices in itertools.product((256, 4096), (1, 8, 64)):
        views, features = 2 * pairs, config.network.projection_dim
        compute = seconds_of_compute(views / devices, macs)
        gathered = 4 * views * features * (devices - 1) / devices  # bytes, float32
        reduced = 2 * 4 * weights * (devices - 1) / devices
        sending = (gathered + reduced) / BETWEEN_DEVICES
        rows.append([
            pairs, devices, views // devices,
            f"{4 * views**2 / 2**20:,.0f} MiB", f"{gathered / 2**20:.2f} MiB",
            f"{reduced / 2**20:.0f} MiB", f"{1e3 * compute:.1f} ms", f"{1e3 * sending:.1f} ms",
            f"{compute / (compute + sending):.0%}",
        ])  # fmt: skip
    headers = ["pairs in a batch", "devices", "views each", "similarities, each", "outputs gathered"]
    return table([*headers, "gradients", "computing", "sending", "efficiency"], rows)


def with_scale(page: str) -> str:
    """The page with what was measured, and with the arithmetic of several devices."""
    share, rate = f"{OF_THE_PEAK:.0%} of the peak", f"{BETWEEN_DEVICES / 1e9:.0f} GB/s"
    text = [
        measured(),
        "On a processor, two processes with a thread each for one run, beside one process with both "
        "threads, and beside two runs at once:",
        efficiency_of_processes(),
        "All that follows is arithmetic, on two assumptions that were not measured: a device reaches "
        f"{share} above, and devices send {rate} to each other (a network of 200 Gbit/s), not while they "
        "compute.",
        hours_of_studies(),
        "The original's scale, at its resolution of 64 pixels and its 50 epochs; the probes come on top.",
        efficiency(),
        "ResNet-18 at 64 pixels. Each process forms the loss of the whole batch and holds all "
        "similarities, in float32. At the original's batch a device of 64 has too little to compute; a "
        "larger batch is another recipe.",
    ]
    return between(page, BEGIN, END, "\n\n".join(text))


def with_inputs(page: str) -> str:
    """The page with a table of the wrong inputs of the tests, and what the answer to each holds."""
    rows = []
    for test, kind in WRONG_INPUTS.items():
        for given, message in test.pytestmark[0].args[1]:
            if isinstance(given, bytes):
                given = str(given)[2:-1]
            elif isinstance(given, tuple):
                given = repr(given[1])[1:-1]
            shown = str(" ".join(given) if isinstance(given, list) else given)
            shown = shown if len(shown) < 88 else f"{shown[:87]}…"
            plain = re.sub(r"\\(.)", r"\1", message.replace(".*", " … "))
            rows.append([kind, f"`{shown}`", plain])
    begin, end = "<!-- inputs: written by tests/refresh_docs.py -->", "<!-- end of inputs -->"
    return between(page, begin, end, table(["kind", "input", "its answer holds"], rows))


if __name__ == "__main__":
    write_text(SCALE, with_scale(SCALE.read_text(encoding="utf-8")))
    write_text(RELIABILITY, with_inputs(RELIABILITY.read_text(encoding="utf-8")))
    write_text(REFERENCE, with_tables(REFERENCE.read_text(encoding="utf-8")))
