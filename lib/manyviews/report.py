"""The report's tables and sentences, all computed from results, and its export."""

from collections.abc import Iterable

import pandas as pd

from manyviews.config import NetworkConfig, TrainingConfig, ViewConfig
from manyviews.data import Dataset
from manyviews.results import (
    ACCURACIES,
    CONFIDENCE,
    REPORTED,
    RUNS,
    Run,
    accuracy_table,
    cost_table,
    mean_interval,
    paired_differences,
)

# Run, run to compare it with, and what changes from the latter to the former.
COMPARISONS = (
    ("resnet34", "baseline", "With a larger network"),
    ("views8", "resnet34", "With more views of each image"),
    ("views8", "baseline", "With both"),
)
KINDS = {
    "fractals": "**synthetic** images (drawn by a program)",
    "tiny-imagenet": "photographs",
    "folder": "images",
}
LAST_SHARE = 0.25  # of the epochs, over which a curve's end is described
NOT_RUN = "not run"
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD with momentum"}


def percent(mean: float, half_width: float = float("nan"), n: int = 0) -> str:
    """A share as percent, with the half width of its interval over seeds, or "n = 1"."""
    if pd.isna(mean):
        return NOT_RUN if n == 0 else "undefined"
    if n == 0:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f} (n = 1)" if n == 1 else f"{100 * mean:.1f} ± {100 * half_width:.1f} (n = {n})"


def points(values: list[float]) -> str:
    """A mean difference of shares in percentage points, with its interval over seeds."""
    mean, half = mean_interval(values)
    if len(values) == 1:
        return f"{100 * mean:+.1f} (n = 1)"
    low, high = 100 * (mean - half), 100 * (mean + half)
    return f"{100 * mean:+.1f} ({low:+.1f} to {high:+.1f}, n = {len(values)})"


def any_run(runs: dict[str, list[Run]]) -> Run | None:
    """Some finished run, to read what all share."""
    return next((seeds[0] for seeds in runs.values()), None)


def data_text(run: Run) -> str:
    """One paragraph on the images; says so where they are synthetic."""
    s = run.summary
    kind = KINDS[run.config["data"]["name"]]
    size = run.config["data"]["image_size"]
    return (
        f"Dataset `{run.environment['dataset']}`: {kind} of {size} x {size} pixels. {s['classes']} training "
        f"classes with {s['train_images']:,} training and {s['val_images']:,} validation images; "
        f"{s['ood_classes']} unseen classes with {s['ood_fit_images']:,} images to fit the probes on and "
        f"{s['ood_test_images']:,} to score them. Chance is {100 / s['classes']:.1f} % on the training "
        f"classes and {100 / s['ood_classes']:.1f} % on the unseen ones."
    )


def labels_text(run: Run) -> str:
    """How many labels a class the probes are fitted on, and what follows for comparing accuracies."""
    s = run.summary
    id_labels, ood_labels = s["train_images"] / s["classes"], s["ood_fit_images"] / s["ood_classes"]
    text = (
        f"The probes are fitted on {id_labels:g} labels for each training class and {ood_labels:g} for each "
        "unseen"
    )
    if id_labels == ood_labels and s["classes"] == s["ood_classes"]:
        return f"{text} class."
    return (
        f"{text} class, of {s['classes']} and {s['ood_classes']} classes: so accuracy on unseen classes "
        "compares with that of other runs on unseen classes, not with that on the training classes."
    )


def methods_text(runs: dict[str, list[Run]]) -> str:
    """How the numbers were made, read from the configurations of the runs."""
    run = any_run(runs)
    if run is None:
        return f"No run of this profile is finished: {NOT_RUN}."
    c, t, v = run.config, run.config["training"], run.config["views"]
    lines = [data_text(run), ""]
    for name, seeds in runs.items():
        of = seeds[0].config
        lines.append(
            f"- **{RUNS[name]}** (`{name}`): depth {of['depth']}, stem `{of['stem']}`, width "
            f"{of['network']['width']}, {of['n_views']} views of each image per epoch, paired two by two, in "
            f"{of['n_views'] // 2} {'pass' if of['n_views'] == 2 else 'passes'} over the images; seeds "
            f"{', '.join(str(s.config['seed']) for s in seeds)}."
        )
    lines += [
        "",
        f"NT-Xent loss at temperature {t['temperature']}; batches of {t['batch_size']} images and two views "
        f"of each; {t['epochs']} epochs of {OPTIMIZERS[t['optimizer']]} at a peak learning rate of "
        f"{t['learning_rate']}, weight decay {t['weight_decay']}, after {t['warmup_epochs']} epoch(s) of "
        f"linear warm-up annealed towards 0 by a cosine, moved once per {t['schedule_per']}. The two views "
        f"go through the network {'together' if t['joint_forward'] else 'one after the other'}; the "
        f"projection head has {'' if c['network']['projection_norm'] else 'no '}BatchNorm.",
        "",
        f"Views: crop of {v['crop_scale'][0]:g} to {v['crop_scale'][1]:g} of the area; flip "
        f"{v['flip_p']:g}; colour jitter ({v['brightness']:g}, {v['contrast']:g}, {v['saturation']:g}, "
        f"{v['hue']:g}) with probability {v['jitter_p']:g}; grayscale {v['grayscale_p']:g}; blur "
        f"{v['blur_p']:g}.",
        "",
        f"Probes, on the backbone's {c['network']['feature_dim']}-dimensional output, without augmentation: "
        f"{c['evaluation']['neighbours']} nearest neighbours (Euclidean, uniform votes), and logistic "
        f"regression (L2, C = {c['evaluation']['linear_c']:g}), solved to its optimum, where the report's "
        "solver stops at a looser tolerance. All numbers are of the last epoch. "
        f"Intervals are {CONFIDENCE:.0%} t intervals over seeds.",
        "",
        departures_text(run),
    ]
    return "\n".join(lines)


def departures_text(run: Run) -> str:
    """In what a run departs from the report's recipe, which is what the configuration's defaults are."""
    sections = (NetworkConfig, ViewConfig, TrainingConfig)
    names = ("network", "views", "training")
    parts = [
        f"`{name}.{key}` {value} ({default})"
        for name, section in zip(names, sections, strict=True)
        for key, default in section().model_dump(mode="json").items()
        if (value := run.config[name].get(key, default)) != default
    ]
    return (
        f"Departures from the report's recipe (its value): {', '.join(parts)}."
        if parts
        else "Network, views and training follow the report's recipe."
    )


def table(rows: list[dict[str, str]]) -> str:
    """Rows of text as a Markdown table; a cell that a row lacks is empty."""
    return pd.DataFrame(rows).fillna("").to_markdown(index=False, disable_numparse=True)


def accuracy_markdown(runs: dict[str, list[Run]]) -> str:
    """The four metrics of each run, reported above measured."""
    cells = accuracy_table(runs).set_index(["run", "metric"])
    rows = []
    for name, title in RUNS.items():
        of_run = {metric: cells.loc[name, metric] for metric in ACCURACIES}
        rows.append(
            {"Run": title, "Accuracy (%)": "reported"}
            | {
                ACCURACIES[metric]: "no number" if pd.isna(cell["reported"]) else percent(cell["reported"])
                for metric, cell in of_run.items()
            }
        )
        rows.append(
            {"Run": "", "Accuracy (%)": "measured"}
            | {
                ACCURACIES[metric]: percent(cell["mean"], cell["half_width"], int(cell["n"]))
                for metric, cell in of_run.items()
            }
        )
    run = any_run(runs)
    if run is None:
        return table(rows)
    kind = "synthetic fractals" if run.summary["synthetic"] else run.environment["dataset"]
    return (
        f"{table(rows)}\n\n± is the half width of the {CONFIDENCE:.0%} t interval over n seeds. Reported: 64 "
        f"x 64 pixel images of 200 ImageNet classes. Measured: {kind}, {run.summary['classes']} classes. "
        "Levels on different data and schedules cannot be compared."
    )


def run_markdown(run: Run) -> str:
    """The four final accuracies of one run beside the reported ones."""
    rows = [
        {
            "Accuracy (%)": label,
            "Initial weights": percent(run.evaluated.iloc[0][metric]),
            f"After {run.summary['epoch']} epochs": percent(run.summary[metric]),
            "Reported": percent(REPORTED[run.name][metric]) if run.name in REPORTED else "no number",
        }
        for metric, label in ACCURACIES.items()
    ]
    notes = f"{labels_text(run)} {convergence_note({run.name: [run]})}"
    return f"{data_text(run)}\n\n{table(rows)}\n\n{notes}"


def dataset_markdown(dataset: Dataset) -> str:
    """Sizes of the three splits."""
    splits = {"train": "training", "val": "validation (ID)", "ood": "unseen classes (OOD)"}
    rows = [
        {
            "Split": title,
            "Images": f"{len(split.labels):,}",
            "Classes": str(split.n_classes),
            "Pixels": " x ".join(map(str, split.images.shape[1:3])),
        }
        for split, title in ((getattr(dataset, name), title) for name, title in splits.items())
    ]
    kind = "**synthetic**: drawn by a program, no photographs" if dataset.synthetic else "photographs"
    return f"`{dataset.name}`, {kind}.\n\n{table(rows)}"


def comparison_markdown(runs: dict[str, list[Run]]) -> str:
    """What the runs differ by in each metric, and what the difference cost."""
    costs = cost_table(runs)
    rows, notes = [], []
    for a, b, question in COMPARISONS:
        title = f"{question}: {RUNS[a]} minus {RUNS[b]}"
        values = {metric: paired_differences(runs, a, b, metric) for metric in ACCURACIES}
        if not all(values.values()):
            missing = NOT_RUN if a not in runs or b not in runs else "no seed in common"
            rows.append({"Difference (points)": title} | dict.fromkeys(ACCURACIES.values(), missing))
            continue
        rows.append(
            {"Difference (points)": title}
            | {label: points(values[metric]) for metric, label in ACCURACIES.items()}
        )
        ratio = costs.loc[a] / costs.loc[b]
        notes.append(
            f"{question}, {RUNS[a]} took {ratio['steps']:.1f} times the optimiser steps and "
            f"{ratio['multiply_adds']:.1f} times the multiply-adds of {RUNS[b]}."
        )
    return f"{table(rows)}\n\nDifferences are taken seed by seed. {' '.join(notes)}"


def plateau_markdown(runs: dict[str, list[Run]], names: Iterable[str] = RUNS) -> str:
    """How much each accuracy still moved in the last part of the training of the named runs."""
    rows = []
    for name in names:
        title = RUNS.get(name, name)
        if name not in runs:
            rows.append({"Run": title, "Accuracy (%)": NOT_RUN})
            continue
        curve = pd.concat([run.evaluated for run in runs[name]]).groupby("epoch")[list(ACCURACIES)].mean()
        last = curve.index[-1]
        before = curve.index[curve.index <= last * (1 - LAST_SHARE)][-1]
        for metric, label in ACCURACIES.items():
            first, earlier, final = (curve.loc[epoch, metric] for epoch in (0, before, last))
            rows.append(
                {
                    "Run": f"{title} (n = {len(runs[name])})" if metric == next(iter(ACCURACIES)) else "",
                    "Accuracy (%)": label,
                    "initial weights": percent(first),
                    f"after epoch {before}": percent(earlier),
                    f"after epoch {last}, the last": percent(final),
                    "last change (points)": f"{100 * (final - earlier):+.1f}",
                }
            )
    rates = [rates_text(runs[name]) for name in names if name in runs]
    return f"{table(rows)}\n\nMeans over n seeds. {' '.join(dict.fromkeys(rates))}"


def rates_text(seeds: list[Run]) -> str:
    """How far the learning rate had fallen in the last epoch, and what that means for a flat curve."""
    rates = seeds[0].metrics["learning_rate"].dropna()
    share = rates.iloc[-1] / rates.max()
    return (
        f"The last learning rate was {share:.0%} of the peak, so a flat end alone does not show "
        "that the data are used up."
    )


def reading(run: Run) -> str:
    """One sentence on each accuracy of a run: from its first to its last value, and its last part."""
    curve = run.evaluated.set_index("epoch")
    last = curve.index[-1]
    before = curve.index[curve.index <= last * (1 - LAST_SHARE)][-1]
    sentences = []
    for metric, label in ACCURACIES.items():
        first, earlier, final = (curve.loc[epoch, metric] for epoch in (0, before, last))
        verb = "rose" if final > first else "fell" if final < first else "stayed"
        sentences.append(
            f"{label} {verb} from {percent(first)} % at the initial weights to {percent(final)} %, of which "
            f"{100 * (final - earlier):+.1f} points came after epoch {before}"
        )
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]} (n = 1). {rates_text([run])}"


def floor_text(floor: dict[str, float], runs: dict[str, list[Run]]) -> str:
    """What raw pixels reach without any training, and which runs end below that."""
    if not floor:
        return f"k-NN on raw pixels: {NOT_RUN}."
    parts = []
    for metric, share in floor.items():
        means = {
            name: mean_interval([run.summary[metric] for run in seeds])[0] for name, seeds in runs.items()
        }
        ends = " and ".join(RUNS[name] for name, mean in means.items() if mean < share)
        verdict = f"below it end, on average, {ends}" if ends else "no run ends below it on average"
        parts.append(f"{ACCURACIES[metric]}: {percent(share)} %" + (f"; {verdict}" if runs else ""))
    return f"Floor, raw pixels without any training. {'. '.join(parts)}."


def limits_markdown(runs: dict[str, list[Run]], failures: list[str]) -> str:
    """What these runs cannot tell, as far as the results themselves say so.

    Args:
        runs, failures: see results.load_runs and load_failures.
    """
    run = any_run(runs)
    if run is None:
        return "\n".join(f"- {line}" for line in (f"{NOT_RUN}.", *failures))
    seeds = min(len(of_run) for of_run in runs.values())
    lines = [labels_text(run), convergence_note(runs)]
    if seeds == 1:
        lines.append("n = 1: some run has one seed, so differences may be chance.")
    if run.summary["synthetic"]:
        lines.append("The images are synthetic: nothing here is evidence about photographs.")
    return "\n".join(f"- {line}" for line in (*lines, *failures))


def convergence_note(runs: dict[str, list[Run]]) -> str:
    """Names the runs whose final linear probes did not converge."""
    stuck = [
        f"`{name}` seed {run.config['seed']}"
        for name, seeds in runs.items()
        for run in seeds
        if not run.summary["linear_converged"]
    ]
    return (
        f"The final linear probe did not converge in: {', '.join(stuck)}."
        if stuck
        else ("The final linear probes of all finished runs converged.")
    )


def cost_markdown(runs: dict[str, list[Run]]) -> str:
    """What each run cost, a row for each of the report's runs."""
    costs = cost_table(runs)
    rows = []
    for name, title in RUNS.items():
        if name not in runs:
            rows.append({"Run": title, "Optimiser steps": NOT_RUN})
            continue
        c = costs.loc[name]
        rows.append(
            {
                "Run": title,
                "Parameters (M)": f"{c['parameters'] / 1e6:.2f}",
                "Optimiser steps": f"{c['steps']:,.0f}",
                "Views forwarded": f"{c['images_forwarded']:,.0f}",
                "Multiply-adds per view (M)": f"{c['multiply_adds_per_view'] / 1e6:,.1f}",
                "Multiply-adds in training (G)": f"{c['multiply_adds'] / 1e9:,.0f}",
                "Wall time (s)": f"{c['wall_time_s']:,.0f}",
                "CPU time (s)": f"{c['cpu_time_s']:,.0f}",
            }
        )
    return table(rows) + (
        "\n\nPer run; times are means over seeds and include the probes. A training step counts three times "
        "its forward multiply-adds (forward, gradient of activations, gradient of weights), in convolutions "
        "and matrix products."
    )


def environment_markdown(runs: dict[str, list[Run]]) -> str:
    """Code, libraries and machine; several values where the runs differ."""
    environments = [run.environment for seeds in runs.values() for run in seeds]
    skipped = {"seed", "wall_time_s", "cpu_time_s", "images_forwarded", "multiply_adds"}
    keys = [key for key in (environments[0] if environments else {}) if key not in skipped]
    rows = [
        {"Item": key, "Value": ", ".join(dict.fromkeys(str(e.get(key)) for e in environments))}
        for key in keys
    ]
    return table(rows) if rows else f"{NOT_RUN}."
